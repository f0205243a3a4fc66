//! DNS for the pods, where a redirection sends their port 53 to ours.
//!
//! Names of the mesh's services are answered from the snapshot in force, as the pod that asks sees them ([`answer`],
//! which is pure). Everything else goes on, as it came, to the server that the pod had asked: this is no resolver, and
//! nobody can make it ask somebody else. The server ([`Server`]) is a thin shell around that, bounded in all that a pod
//! can make it hold.
#![forbid(unsafe_code)]

mod answer;
#[doc(hidden)]
pub mod fuzzing;
mod names;
mod pace;
mod query;
mod reply;
mod server;
mod settings;
mod share;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;
mod upstream;

pub use answer::{Answer, View, answer};
pub use query::{MAX_QUERY, Malformed, Query, Transport};
pub use server::{Server, Usage};
pub use settings::Settings;
pub use sockets::{Listeners, PodSockets};
