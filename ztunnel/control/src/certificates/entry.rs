//! What is known of one identity's certificate.

use std::{sync::Arc, time::SystemTime};

use model::{SpiffeId, Svid, SvidError};

use super::{AuthorityError, schedule};

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) svid: Option<Arc<Svid>>,
    /// The last attempts failed.
    pub(super) failure: Option<Failure>,
    /// When to issue, renew or try again.
    pub(super) due: SystemTime,
    pub(super) issuing: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// In a row.
    pub(super) count: u32,
    pub(super) error: AuthorityError,
}

impl Entry {
    pub(super) fn wanted(now: SystemTime) -> Self {
        Self { svid: None, failure: None, due: now, issuing: false }
    }

    /// What to tell somebody who needs the certificate now; `None`: wait.
    pub(super) fn answer(
        &self,
        identity: &SpiffeId,
        now: SystemTime,
    ) -> Option<Result<Arc<Svid>, SvidError>> {
        if let Some(svid) = self.valid(now) {
            return Some(Ok(Arc::clone(svid)));
        }
        let failure = self.failure.as_ref()?;
        Some(Err(match &self.svid {
            Some(_) => SvidError::Expired(identity.clone()),
            None => super::unavailable(identity, &failure.error.to_string()),
        }))
    }

    pub(super) fn valid(&self, now: SystemTime) -> Option<&Arc<Svid>> {
        self.svid.as_ref().filter(|svid| now < svid.not_after)
    }

    /// `jitter` is any number from 0 to 1.
    pub(super) fn issued(&mut self, svid: Svid, now: SystemTime, jitter: f64) {
        // From now: a certificate is backdated, and of a short one that could be all of the first half.
        self.due = schedule::renew_at(svid.not_before.max(now), svid.not_after, jitter);
        self.svid = Some(Arc::new(svid));
        self.failure = None;
        self.issuing = false;
    }

    /// As if it had never been there.
    pub(super) fn revoked(&mut self, now: SystemTime) {
        self.svid = None;
        self.failure = None;
        self.due = now;
    }

    pub(super) fn failed(&mut self, error: AuthorityError, now: SystemTime, jitter: f64) {
        let count = self.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let left = self.svid.as_ref().and_then(|svid| svid.not_after.duration_since(now).ok());
        self.due = now + schedule::retry_after(count, left, jitter);
        self.failure = Some(Failure { count, error });
        self.issuing = false;
    }
}
