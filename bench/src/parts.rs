//! What is measured. Each part builds what it needs, measures and takes it down again.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

use crate::{options::Options, progress, report::figure::Figure};

pub(crate) mod memory;
pub(crate) mod traffic;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Bulk, requests, ping-pong and new connections, against the same without a mesh
    Traffic,
    /// The daemon at rest, with pods and connections
    Memory,
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
            Self::Memory => memory::measure(options, findings),
        }
    }
}
