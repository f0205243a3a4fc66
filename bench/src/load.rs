//! Who talks: one process inside each pod, so that what it takes of the processor is known by itself.
//!
//! It must be cheaper than what is measured: large reads and writes for bulk, one thread for everything else.

pub(crate) mod client;
pub(crate) mod order;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod start;
pub(crate) mod steer;

mod bulk;
mod connect;
mod hold;
mod latency;
mod requests;
