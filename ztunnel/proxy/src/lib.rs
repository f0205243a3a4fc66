//! The two journeys of a connection: out of a pod ([`outbound`]) and into a pod ([`inbound`] through the tunnel,
//! [`plaintext`] without; [`direct`] is both at once, on one node). Each is one function that reads in phases, from accept to account.
//!
//! The kernel is met only through [`PodSockets`], so every journey runs in a test without one.
#![forbid(unsafe_code)]

mod accept;
mod copy;
mod direct;
mod failure;
mod faults;
mod gate;
mod headers;
mod inbound;
mod leg;
mod limits;
mod neighbours;
mod outbound;
mod own_legs;
mod pace;
mod pipes;
mod plaintext;
mod pods;
mod room;
mod serve;
mod shares;
mod standing;
mod turns;
mod upstream;

pub use headers::{connect_headers, new_trace};
pub use limits::ProxyLimits;
pub use pods::{Arrival, LocalWorkload, PodSockets, Stop};
pub use serve::{Proxy, ProxySettings};
