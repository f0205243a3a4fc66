//! What the CNI plugin and the daemon have in common, and the plugin itself.
//!
//! - [`plugin`]: the chained plugin. The container runtime runs it for each pod, before the pod's first process.
//! - [`wire`]: what the plugin asks the daemon, and what it is answered, over a Unix socket.
//! - [`EnrolledNamespaces`]: whose pods wait while no daemon is there.
//! - [`conflist`]: our entry in the node's CNI configuration, with everything else left as it stands.
#![forbid(unsafe_code)]

pub mod conflist;
mod enrolled;
pub mod plugin;
pub mod wire;

pub use enrolled::EnrolledNamespaces;

/// The plugin's name: of its binary, and in CNI configurations.
pub const PLUGIN: &str = "ztunnel-cni";
