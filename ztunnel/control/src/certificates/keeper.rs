//! The background task that issues what is wanted and renews what is due.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{SpiffeId, Svid};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    CertificateAuthority, CertificateEvent, CertificateSettings, Shared, authority::AuthorityError,
    request::Request,
};

/// A node that starts wants many certificates at once; the authority serves other nodes too.
const AT_ONCE: usize = 16;
/// The wall clock can be set and the machine suspended: look again at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Runs until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>, authority: Arc<impl CertificateAuthority>) {
    let mut issuing = JoinSet::new();
    loop {
        for identity in shared.begin_due(AT_ONCE - issuing.len().min(AT_ONCE)) {
            issuing.spawn(issue_into(Arc::clone(&shared), Arc::clone(&authority), identity));
        }
        let pause = if issuing.len() < AT_ONCE { shared.until_due() } else { LOOK_AGAIN };
        tokio::select! {
            Some(_) = issuing.join_next() => {}
            () = shared.wake.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

impl Shared {
    /// Marks up to `limit` of those due as being issued, the longest due first.
    fn begin_due(&self, limit: usize) -> Vec<SpiffeId> {
        let now = self.now();
        let entries = self.entries.lock();
        let mut due: Vec<_> = entries
            .iter()
            .map(|(identity, entry)| (entry.borrow().due, identity, entry))
            .filter(|(due, _, entry)| *due <= now && !entry.borrow().issuing)
            .collect();
        due.sort_by_key(|(due, identity, _)| (*due, *identity));
        let begun = due.into_iter().take(limit);
        begun.map(|(_, identity, entry)| begin(identity, entry)).collect()
    }

    fn until_due(&self) -> Duration {
        let now = self.now();
        let entries = self.entries.lock();
        let waiting = entries.values().filter(|entry| !entry.borrow().issuing);
        let next: Option<SystemTime> = waiting.map(|entry| entry.borrow().due).min();
        next.map_or(LOOK_AGAIN, |due| due.duration_since(now).unwrap_or_default().min(LOOK_AGAIN))
    }

    /// The entry is gone if nobody uses the identity any more.
    fn finish(&self, identity: &SpiffeId, result: Result<Svid, AuthorityError>) {
        let (now, jitter) = (self.now(), rand::random::<f64>());
        let event = match &result {
            Ok(svid) => {
                tracing::info!(%identity, serial = svid.serial, "certificate issued");
                CertificateEvent::Issued { identity: identity.clone(), not_after: svid.not_after }
            }
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(%identity, reason, %error, "no certificate");
                CertificateEvent::Failed { identity: identity.clone(), reason }
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
    let result = issue(&*authority, &identity, &shared.settings).await;
    shared.finish(&identity, result);
}

/// A fresh key for every certificate.
async fn issue(
    authority: &impl CertificateAuthority,
    identity: &SpiffeId,
    settings: &CertificateSettings,
) -> Result<Svid, AuthorityError> {
    let request = Request::new(identity)?;
    let signing = authority.sign(identity, request.der());
    let issued = timeout(settings.issue_deadline, signing).await.map_err(|_| AuthorityError::Deadline)??;
    request.into_svid(issued, (settings.clock)())
}
