//! A current certificate for each identity of this node.
//!
//! One certificate per identity is shared by all its pods. Whoever asks for one that is not there yet waits, all
//! for the same issue; the [`keeper`] issues and renews in the background, [`schedule`] says when.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{SpiffeId, Svid, SvidError, SvidSource, TrustDomain};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::instant::Clock;

mod authority;
mod embedded;
mod entry;
mod keeper;
mod request;
mod root;
mod schedule;
mod status;
#[cfg(test)]
mod tests;

pub use authority::{AuthorityError, CertificateAuthority, Issued};
pub use embedded::EmbeddedCa;
use entry::Entry;
pub use root::RootError;
pub use status::{CertificateEvent, CertificateState, CertificateStatus};

/// What is told of every issue and failure, for metrics. Called from the keeper: it must not block.
pub type EventSink = Arc<dyn Fn(CertificateEvent) + Send + Sync>;

#[derive(Clone)]
pub struct CertificateSettings {
    /// Only identities of this trust domain are issued.
    pub trust_domain: TrustDomain,
    /// An authority that answers no sooner has failed.
    pub issue_deadline: Duration,
    pub clock: Clock,
    pub events: EventSink,
}

impl CertificateSettings {
    /// The system's clock, ten seconds for an issue, and events told to nobody.
    pub fn new(trust_domain: TrustDomain) -> Self {
        let events = Arc::new(|_| ());
        Self { trust_domain, issue_deadline: Duration::from_secs(10), clock: crate::system_clock(), events }
    }
}

/// The source of SVIDs over a certificate authority. Renewal stops when it is dropped.
pub struct Certificates {
    shared: Arc<Shared>,
    _keeping: AbortOnDropHandle<()>,
}

/// What callers and keeper share. The lock is held for look-ups only.
struct Shared {
    settings: CertificateSettings,
    entries: Mutex<BTreeMap<SpiffeId, watch::Sender<Entry>>>,
    /// There is something new to do.
    wake: Notify,
}

impl Certificates {
    /// Must be called within a tokio runtime; the keeper runs there.
    pub fn start(authority: impl CertificateAuthority, settings: CertificateSettings) -> Self {
        let shared = Arc::new(Shared { settings, entries: Mutex::default(), wake: Notify::new() });
        let keeper = keeper::keep(Arc::clone(&shared), Arc::new(authority));
        Self { shared, _keeping: AbortOnDropHandle::new(tokio::spawn(keeper)) }
    }

    /// Has a certificate issued if there is none, so that the first connection need not wait.
    pub fn prefetch(&self, identity: &SpiffeId) -> Result<(), SvidError> {
        self.shared.watch(identity).map(|_| ())
    }

    /// Drops the certificates of all other identities: nobody on this node uses them any more.
    pub fn retain(&self, used: &HashSet<SpiffeId>) {
        self.shared.entries.lock().retain(|identity, _| used.contains(identity));
    }

    /// What there is, by identity.
    pub fn statuses(&self) -> Vec<CertificateStatus> {
        let now = self.shared.now();
        let entries = self.shared.entries.lock();
        entries
            .iter()
            .map(|(identity, entry)| CertificateStatus::of(identity, &entry.borrow(), now))
            .collect()
    }

    /// The certificates in force, by identity, for those who show them.
    pub fn svids(&self) -> Vec<Arc<Svid>> {
        let entries = self.shared.entries.lock();
        entries.values().filter_map(|entry| entry.borrow().svid.clone()).collect()
    }
}

impl SvidSource for Certificates {
    /// Waits for the first issue, together with all others who ask; later calls do not wait. While the authority
    /// is failing, the answer is its error at once.
    async fn svid(&self, identity: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        let mut entry = self.shared.watch(identity)?;
        let usable = |entry: &Entry| entry.answer(identity, self.shared.now());
        if let Some(answer) = usable(&entry.borrow_and_update()) {
            return answer;
        }
        self.shared.wake.notify_one();
        loop {
            if entry.changed().await.is_err() {
                return Err(unavailable(identity, "the identity is no longer used on this node"));
            }
            if let Some(answer) = usable(&entry.borrow_and_update()) {
                return answer;
            }
        }
    }
}

impl Shared {
    fn now(&self) -> SystemTime {
        (self.settings.clock)()
    }

    fn watch(&self, identity: &SpiffeId) -> Result<watch::Receiver<Entry>, SvidError> {
        if *identity.trust_domain() != self.settings.trust_domain {
            let ours = &self.settings.trust_domain;
            return Err(unavailable(identity, &format!("only identities of trust domain {ours} are issued")));
        }
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(identity) {
            return Ok(entry.subscribe());
        }
        let (entry, receiver) = watch::channel(Entry::wanted(self.now()));
        entries.insert(identity.clone(), entry);
        self.wake.notify_one();
        Ok(receiver)
    }
}

fn unavailable(identity: &SpiffeId, cause: &str) -> SvidError {
    SvidError::Unavailable { identity: identity.clone(), cause: cause.into() }
}
