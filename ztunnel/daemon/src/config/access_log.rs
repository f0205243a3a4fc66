//! What of the access log is written, and how.

use serde::{Deserialize, Serialize};
use telemetry::{AccessLogMode, ErrorLines, Fraction};

use super::{LogFormat, Span};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct AccessLog {
    pub(crate) mode: AccessLogMode,
    /// Of the connections that went well.
    pub(crate) sample: Fraction,
    /// Lines of what went wrong that one source has at one pod,
    pub(crate) error_lines: u64,
    /// in this time.
    pub(crate) error_interval: Span,
    /// That of the log if it is not given.
    pub(crate) format: Option<LogFormat>,
}

impl Default for AccessLog {
    fn default() -> Self {
        let telemetry::AccessLog { mode, sample, errors } = telemetry::AccessLog::default();
        let ErrorLines { lines: error_lines, interval } = errors;
        Self { mode, sample, error_lines, error_interval: Span(interval), format: None }
    }
}

impl AccessLog {
    pub(crate) fn choice(self) -> telemetry::AccessLog {
        let errors = ErrorLines { lines: self.error_lines, interval: self.error_interval.0 };
        telemetry::AccessLog { mode: self.mode, sample: self.sample, errors }
    }
}
