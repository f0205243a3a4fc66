//! Nodes and pods on one machine, for tests and for the demo.
//!
//! A [`Topology`] is made of network namespaces and hand-made cgroups. Each [`Place`] in it (a pod, a node's own
//! namespace, the daemon's, a host outside of the mesh) runs plain Rust closures and real programs *inside* itself:
//! their sockets belong to its namespace and its cgroup, which is what the kernel hooks under test look at.
//! A [`Capture`](capture::Capture) says what the wire really carried, and a [`Daemon`] is the real
//! binary. All of it goes when it is dropped, also on panic; what a killed run left behind goes at the next start.

pub mod api_server;
pub mod ca;
pub mod capture;
pub mod cgroup;
pub mod client;
pub mod cni;
pub mod container;
pub mod control_plane;
mod daemon;
pub mod dns;
mod eventually;
pub mod kubernetes;
mod mesh;
mod names;
mod namespace;
pub mod pattern;
pub mod pinned_map;
mod place;
pub mod rate;
pub mod requirements;
pub mod seccomp;
pub mod server;
mod sweep;
mod topology;

pub use daemon::Daemon;
pub use eventually::eventually;
pub use mesh::{Mesh, MeshPlan, PodPlan, family_of};
pub use place::{Place, Process};
pub use sweep::sweep;
pub use topology::{Node, Pod, Topology};
