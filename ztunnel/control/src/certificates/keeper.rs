//! The background task that issues what is wanted and renews what is due.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{SpiffeId, Svid};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    CertificateAuthority, CertificateEvent, Shared,
    authority::AuthorityError,
    request::{Request, is_revoked},
    schedule,
};

/// A node that starts wants many certificates at once; the authority serves other nodes too.
const AT_ONCE: usize = 16;
/// Of these, how many may be such that no connection waits for.
const AT_ONCE_AHEAD: usize = 12;
/// The wall clock can be set and the machine suspended: look again at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Runs until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>, authority: Arc<impl CertificateAuthority>) {
    let mut issuing = JoinSet::new();
    loop {
        shared.trust.forget(shared.now());
        for identity in shared.begin_due(issuing.len()) {
            issuing.spawn(issue_into(Arc::clone(&shared), Arc::clone(&authority), identity));
        }
        // With all places for it taken, what is due waits for one, not for a time.
        let pause = if issuing.len() < AT_ONCE_AHEAD { shared.until_due() } else { LOOK_AGAIN };
        tokio::select! {
            Some(_) = issuing.join_next() => {}
            () = shared.wake.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

impl Shared {
    /// Marks those due as being issued, as many as may be besides the `under_way`: first those that connections wait
    /// for, then the longest due.
    fn begin_due(&self, under_way: usize) -> Vec<SpiffeId> {
        let now = self.now();
        let entries = self.entries.lock();
        let mut due: Vec<_> = entries
            .iter()
            .map(|(identity, entry)| (entry.receiver_count() == 0, entry.borrow().due, identity, entry))
            .filter(|(_, due, _, entry)| *due <= now && !entry.borrow().issuing)
            .collect();
        due.sort_by_key(|(ahead, due, identity, _)| (*ahead, *due, *identity));
        let places = (under_way..).zip(due);
        let begun =
            places.take_while(|(place, (ahead, ..))| *place < if *ahead { AT_ONCE_AHEAD } else { AT_ONCE });
        begun.map(|(_, (_, _, identity, entry))| begin(identity, entry)).collect()
    }

    fn until_due(&self) -> Duration {
        let now = self.now();
        let entries = self.entries.lock();
        let waiting = entries.values().filter(|entry| !entry.borrow().issuing);
        let next: Option<SystemTime> = waiting.map(|entry| entry.borrow().due).min();
        next.map_or(LOOK_AGAIN, |due| due.duration_since(now).unwrap_or_default().min(LOOK_AGAIN))
    }

    /// Entries whose certificate is revoked become wanted again.
    pub(super) fn drop_revoked(&self) {
        let (now, revoked) = (self.now(), self.revoked.load());
        for (identity, entry) in self.entries.lock().iter() {
            entry.send_if_modified(|entry| {
                let Some(svid) = entry.svid.clone().filter(|svid| is_revoked(svid, &revoked)) else {
                    return false;
                };
                tracing::warn!(%identity, serial = svid.serial, "our certificate is revoked; another is asked for");
                entry.revoked(now);
                // Nobody waits for that; whoever asks from now on waits for the next one.
                false
            });
        }
    }

    /// For how long there is a certificate.
    fn left(&self, identity: &SpiffeId) -> Option<Duration> {
        let entries = self.entries.lock();
        let svid = entries.get(identity)?.borrow().svid.clone()?;
        svid.not_after.duration_since(self.now()).ok()
    }

    /// The entry is gone if nobody uses the identity any more.
    fn finish(&self, identity: &SpiffeId, result: Result<Svid, AuthorityError>, took: Duration) {
        let (now, jitter) = (self.now(), rand::random::<f64>());
        let result = match result {
            Ok(svid) if is_revoked(&svid, &self.revoked.load()) => Err(AuthorityError::Revoked),
            result => result,
        };
        let event = match &result {
            Ok(svid) => {
                tracing::info!(%identity, serial = svid.serial, "certificate issued");
                CertificateEvent::Issued { identity: identity.clone(), took }
            }
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(%identity, reason, %error, "no certificate; trying again");
                CertificateEvent::Failed { identity: identity.clone(), reason, took }
            }
        };
        if let Some(entry) = self.entries.lock().get(identity) {
            entry.send_modify(|entry| match result {
                Ok(svid) => entry.issued(svid, now, jitter),
                Err(error) => entry.failed(error, now, jitter),
            });
        }
        (self.settings.events)(event);
    }
}

fn begin(identity: &SpiffeId, entry: &tokio::sync::watch::Sender<super::Entry>) -> SpiffeId {
    // Nobody waits for this, so nobody is woken.
    entry.send_if_modified(|entry| {
        entry.issuing = true;
        false
    });
    identity.clone()
}

async fn issue_into(shared: Arc<Shared>, authority: Arc<impl CertificateAuthority>, identity: SpiffeId) {
    let started = Instant::now();
    let result = issue(&*authority, &identity, &shared).await;
    shared.finish(&identity, result, started.elapsed());
}

/// A fresh key for every certificate. The roots are believed before anybody is shown what chains to them.
async fn issue(
    authority: &impl CertificateAuthority,
    identity: &SpiffeId,
    shared: &Shared,
) -> Result<Svid, AuthorityError> {
    let request = Request::new(identity)?;
    let signing = authority.sign(identity, request.der());
    let deadline = schedule::patience(shared.settings.issue_deadline, shared.left(identity));
    let issued = timeout(deadline, signing).await.map_err(|_| AuthorityError::Deadline)??;
    let roots = issued.roots.clone();
    let svid = request.into_svid(issued, shared.trust.given_own().as_deref(), shared.now())?;
    shared.trust.learn(&roots, svid.not_after, shared.now());
    Ok(svid)
}
