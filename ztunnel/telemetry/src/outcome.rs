//! How a connection ended.

use model::{Refusal, policy::PolicyKey, refusal::RefusalKind};

#[derive(Debug)]
pub enum Outcome {
    /// Both directions finished.
    Completed,
    /// One end aborted it.
    Reset { by: End },
    /// The mesh would not have it; on a connection that stood: would no longer have it.
    Refused(Refusal),
    /// It could not be made, or broke.
    Failed { flags: ResponseFlags, reason: &'static str, error: String },
    /// The daemon ended it: the pod is gone, or the daemon stops.
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

impl End {
    pub fn opposite(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Istio's word for what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFlags {
    None,
    Deny,
    Connect,
    TlsFailure,
}

impl ResponseFlags {
    pub const ALL: [Self; 4] = [Self::None, Self::Deny, Self::Connect, Self::TlsFailure];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
        }
    }
}

impl Outcome {
    /// The one word that log and metric share.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Reset { by: End::Source } => "reset_by_source",
            Self::Reset { by: End::Destination } => "reset_by_destination",
            Self::Refused(refusal) => refusal.reason(),
            Self::Failed { reason, .. } => reason,
            Self::Cancelled => "cancelled",
        }
    }

    pub fn flags(&self) -> ResponseFlags {
        match self {
            Self::Completed | Self::Reset { .. } | Self::Cancelled => ResponseFlags::None,
            Self::Refused(refusal) if refusal.kind() == RefusalKind::Denied => ResponseFlags::Deny,
            Self::Refused(_) => ResponseFlags::Connect,
            Self::Failed { flags, .. } => *flags,
        }
    }

    pub(crate) fn error(&self) -> Option<String> {
        match self {
            Self::Completed | Self::Reset { .. } | Self::Cancelled => None,
            Self::Refused(refusal) => Some(refusal.to_string()),
            Self::Failed { error, .. } => Some(error.clone()),
        }
    }

    pub(crate) fn policy(&self) -> Option<String> {
        self.policy_key().map(ToString::to_string)
    }

    pub(crate) fn policy_key(&self) -> Option<&PolicyKey> {
        match self {
            Self::Refused(refusal) => refusal.policy(),
            _ => None,
        }
    }
}
