//! What is measured. Each part builds what it needs, measures and takes it down again.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

use crate::{options::Options, progress, report::figure::Figure};

pub(crate) mod destinations;
pub(crate) mod memory;
mod redirection;
mod scaling;
pub(crate) mod traffic;
mod workers;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Bulk, requests, ping-pong and new connections, against the same without a mesh
    Traffic,
    /// Connections to a hundred destinations at once, cold and warm
    Destinations,
    /// A local listener, reached by nothing, by eBPF steering and by iptables rules
    Redirection,
    /// The daemon at rest, with pods and connections, and sidecars in its place
    Memory,
    /// A new connection's cost as pods, connections, policies and workloads grow
    Scaling,
    /// Throughput with one worker thread and with two
    Workers,
}

/// What a part has found out.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) figures: Vec<Figure>,
    /// What the figures were made of, as it was measured.
    pub(crate) samples: Vec<Value>,
}

impl Part {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn measure(self, options: &Options, findings: &mut Findings) -> Result<()> {
        progress::say(&format!("{self:?}"));
        match self {
            Self::Traffic => traffic::measure(options, findings),
            Self::Destinations => destinations::measure(options, findings),
            Self::Redirection => redirection::measure(options, findings),
            Self::Memory => memory::measure(options, findings),
            Self::Scaling => scaling::measure(options, findings),
            // A setting of our own.
            Self::Workers if options.proxy.is_some() => Ok(()),
            Self::Workers => workers::measure(options, findings),
        }
    }
}
