//! The redirection: steers the traffic of enrolled pods to this daemon, and gives it sockets inside those pods.
//!
//! The only home of aya and of unsafe code. A pod is enrolled by [`Redirector::enrol`], which prepares its
//! network namespace and answers with an [`EnrolledPod`]: three listeners, one for each [`model::Role`], and the
//! two kinds of connection a proxy opens there. What is attached is pinned in bpffs and outlives this process, so a
//! pod that chose to fail closed stays closed while the daemon restarts. Where a CNI redirects
//! ([`Captured`]), nothing is attached, and a pod is the listeners and the connections alone.

mod address;
mod bpf;
mod captured;
pub mod check;
mod conntrack;
mod descriptors;
mod dns;
mod dumps;
mod egress;
mod error;
mod guard;
pub mod heap;
mod kernel_log;
mod listener;
mod maps;
mod memory;
mod namespace;
mod objects;
mod older;
mod pins;
mod pod;
mod redirection;
mod redirector;
mod routing;
pub mod sandbox;
mod scratch;
mod seats;
mod socket;
mod sysctl;
mod unenrol;

pub use captured::Captured;
pub use conntrack::Conntrack;
pub use descriptors::{descriptors, raise_descriptor_limit};
pub use dns::{DnsListeners, original_destination};
pub use dumps::forbid_core_dumps;
pub use error::RedirectError;
pub use guard::Finding;
pub use maps::VerdictCounts;
pub use memory::{give_back_memory, let_go_of_code, share_heaps, spare_memory};
pub use namespace::NetworkNamespace;
pub use older::OlderConnection;
pub use pod::{Accepted, EnrolledPod, FailMode, PodSpec};
pub use redirection::Redirection;
pub use redirector::{Redirector, Settings};
pub use unenrol::{Removed, refuse_if_served, unenrol_all};
