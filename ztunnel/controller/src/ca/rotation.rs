//! The rotation of the mesh's own root, as its Secret tells of it. Pure.
//!
//! | stage | signs | believed | the next one waits until |
//! | --- | --- | --- | --- |
//! | none | the root | the root | |
//! | prepared | the old root | both | every certificate that came without the new root is over: then all daemons believe it |
//! | switched | the new root | both | every certificate of the old root is over |
//! | returned | the old root | both | (after an abort) every certificate of the new root is over |
//!
//! A daemon believes the roots that came with each certificate it has. So what is waited for is the longest life of a
//! certificate, which the Secret says, and a while for all replicas to follow. Each step is one write of the Secret.

use anyhow::{Context, bail};
use kubernetes::k8s_openapi::{ByteString, jiff::Timestamp};
use serde::{Deserialize, Serialize};

use super::secret::{Data, ROTATION};

mod steps;
#[cfg(test)]
mod tests;

pub use steps::Step;
pub(super) use steps::{Outcome, Terms, ready, take};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    Prepared,
    Switched,
    Returned,
}

/// Where a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    pub(crate) stage: Stage,
    /// Since when the new root is among those that are believed.
    pub(crate) announced: Timestamp,
    /// Since when it is at this stage.
    pub(crate) since: Timestamp,
}

/// As it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    stage: Stage,
    announced: String,
    since: String,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Switched => "switched",
            Self::Returned => "returned",
        }
    }

    /// For the metric; without a rotation it is 0.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Prepared => 1,
            Self::Switched => 2,
            Self::Returned => 3,
        }
    }
}

impl Rotation {
    pub(super) fn read(data: &Data) -> anyhow::Result<Option<Self>> {
        let Some(ByteString(text)) = data.get(ROTATION) else { return Ok(None) };
        let Ok(Written { stage, announced, since }) = serde_json::from_slice(text) else {
            bail!("`{ROTATION}` is not what a rotation writes");
        };
        let time = |text: &str| text.parse().with_context(|| format!("`{ROTATION}`: {text} is no time"));
        Ok(Some(Self { stage, announced: time(&announced)?, since: time(&since)? }))
    }

    fn written(&self) -> anyhow::Result<ByteString> {
        let Self { stage, announced, since } = self;
        let written = Written { stage: *stage, announced: announced.to_string(), since: since.to_string() };
        Ok(ByteString(serde_json::to_vec(&written)?))
    }
}
