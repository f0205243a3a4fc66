//! What of the access log is written, and how.

use serde::{Deserialize, Serialize};
use telemetry::{AccessLogMode, Fraction};

use super::LogFormat;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct AccessLog {
    pub(crate) mode: AccessLogMode,
    /// Of the connections that went well.
    pub(crate) sample: Fraction,
    /// That of the log if it is not given.
    pub(crate) format: Option<LogFormat>,
}

impl AccessLog {
    pub(crate) fn choice(self) -> telemetry::AccessLog {
        telemetry::AccessLog { mode: self.mode, sample: self.sample }
    }
}
