//! What is shown and told of certificates: never the key.

use std::time::{Duration, SystemTime};

use model::SpiffeId;
use serde::Serialize;

use super::{audit::Change, entry::Entry};
use crate::instant::{rfc3339, rfc3339_option};

/// One identity's certificate as the admin endpoint shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    pub identity: SpiffeId,
    pub state: CertificateState,
    pub serial: Option<String>,
    #[serde(serialize_with = "rfc3339_option")]
    pub not_before: Option<SystemTime>,
    #[serde(serialize_with = "rfc3339_option")]
    pub not_after: Option<SystemTime>,
    /// When it will be issued, renewed or tried again.
    #[serde(serialize_with = "rfc3339")]
    pub due: SystemTime,
    /// Failures in a row.
    pub failures: u32,
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateState {
    /// There is none yet.
    Initializing,
    Valid,
    /// There is one, and the next is being issued.
    Renewing,
    /// There is one, but it could not be renewed so far.
    Stale,
    /// There is none, and the authority fails.
    Failing,
    Expired,
}

/// What happened, for metrics.
#[derive(Clone, Debug)]
pub enum CertificateEvent {
    Issued {
        identity: SpiffeId,
        took: Duration,
    },
    Failed {
        identity: SpiffeId,
        reason: &'static str,
        took: Duration,
    },
    /// What the mesh's identities rest on is not what it was.
    Changed(Change),
}

impl CertificateStatus {
    pub(super) fn of(identity: &SpiffeId, entry: &Entry, now: SystemTime) -> Self {
        let svid = entry.svid.as_ref();
        Self {
            identity: identity.clone(),
            state: state(entry, now),
            serial: svid.map(|svid| svid.serial.clone()),
            not_before: svid.map(|svid| svid.not_before),
            not_after: svid.map(|svid| svid.not_after),
            due: entry.due,
            failures: entry.failure.as_ref().map_or(0, |failure| failure.count),
            error: entry.failure.as_ref().map(|failure| failure.error.to_string()),
        }
    }
}

fn state(entry: &Entry, now: SystemTime) -> CertificateState {
    match (&entry.svid, entry.valid(now), &entry.failure) {
        (None, _, None) => CertificateState::Initializing,
        (None, _, Some(_)) => CertificateState::Failing,
        (Some(_), None, _) => CertificateState::Expired,
        (Some(_), Some(_), Some(_)) => CertificateState::Stale,
        (Some(_), Some(_), None) if entry.issuing => CertificateState::Renewing,
        (Some(_), Some(_), None) => CertificateState::Valid,
    }
}
