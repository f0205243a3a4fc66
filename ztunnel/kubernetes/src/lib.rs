//! The Kubernetes API as the mesh sees it: client, watches, which pods are enrolled, policies as resources.

mod client;
mod enrolment;
pub mod policies;
mod watch;

pub use client::{ClientError, connect};
pub use enrolment::{DATAPLANE_MODE, Facts, Own, Refusal, SYSTEM_NAMESPACES, membership};
pub use k8s_openapi;
pub use kube;
pub use watch::{Change, Reason, Selection, Trouble, watch};
