//! Why a watch failed, and what helps.

use std::{fmt, time::Duration};

use kube::{core::Status, runtime::watcher};

use super::asked_to_wait;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The API server does not know this sort of object: its CRD is not installed.
    Absent,
    /// The service account may not list or watch it.
    Forbidden,
    /// The token is not, or no longer, good.
    Unauthorized,
    /// From where it was to resume is forgotten; it lists again.
    Expired,
    /// 429 or 5xx.
    Overloaded,
    /// No answer, or none that can be read.
    Broken,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Forbidden => "forbidden",
            Self::Unauthorized => "unauthorized",
            Self::Expired => "expired",
            Self::Overloaded => "overloaded",
            Self::Broken => "broken",
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Self::Absent => ": install the chart's CRDs",
            Self::Forbidden => ": the role of this service account lacks it",
            Self::Unauthorized => ": is the service account's token mounted?",
            Self::Expired | Self::Overloaded | Self::Broken => "",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Trouble {
    pub reason: Reason,
    cause: String,
    pub(super) asked_to_wait: Duration,
}

impl Trouble {
    pub(super) fn of(error: &watcher::Error) -> Self {
        let status: Option<&Status> = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => Some(status),
            _ => None,
        };
        let reason = match status.map_or(0, |status| status.code) {
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::Absent,
            410 => Reason::Expired,
            429 | 500.. => Reason::Overloaded,
            _ => Reason::Broken,
        };
        let cause = error.to_string();
        Self { reason, cause, asked_to_wait: status.map(asked_to_wait).unwrap_or_default() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.cause, self.reason.cure())
    }
}
