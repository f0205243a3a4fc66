//! The control plane for clusters that have none: watches the Kubernetes API, and serves the daemons state by delta ADS and
//! certificates by Istio's CA service, as istiod does.
//!
//! - [`facts`]: what is kept of each object that is watched.
//! - [`inventory`]: all that is known of the cluster, and which resources a change touches.
//! - [`convert`]: PURE: the resources of the wire.
//! - [`book`]: the resources in the order in which they changed.
//! - [`ads`]: the streams of the daemons.
//! - [`ca`]: the root in its Secret and its rotation, who may have which certificate, and signing.
//! - [`authentication`]: whose token it is.
//! - [`lease`], [`status`]: the one replica that writes, and what it writes to policies.
#![forbid(unsafe_code)]

mod ads;
mod authentication;
mod book;
mod ca;
mod convert;
mod crds;
mod facts;
mod inventory;
mod lease;
mod probes;
mod run;
mod server;
mod settings;
mod status;
mod watches;

pub use ca::{RotateRoot, Step};
pub use crds::crds;
pub use run::run;
pub use settings::Settings;
