//! A current certificate for each identity of this node.
//!
//! One certificate per identity is shared by all its pods. Whoever asks for one that is not there yet waits, all
//! for the same issue; the [`keeper`] issues and renews in the background, [`schedule`] says when.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use model::{
    Revoked, SpiffeId, Svid, SvidError, SvidSource, Trust, TrustDomain, TrustDomains, svid::TrustBundle,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::instant::Clock;

mod audit;
mod authority;
mod bundle;
mod ca_files;
mod chain;
mod embedded;
mod entry;
mod intermediate;
mod istio;
mod keeper;
mod replaced;
mod request;
mod root;
mod schedule;
mod signer;
mod signing;
mod signing_ca;
mod status;
#[cfg(test)]
mod tests;
mod trust;

pub use audit::Change;
pub use authority::{AuthorityError, CertificateAuthority, Issued};
pub use bundle::BundleFile;
pub use ca_files::{CaFiles, RootError};
pub use embedded::EmbeddedCa;
use entry::Entry;
pub use istio::IstioCa;
pub use replaced::CaWatch;
pub(crate) use signing::instant;
pub use signing_ca::{CaMaterial, ServerCertificate, SigningCa, fingerprint, new_root};
pub use status::{CertificateEvent, CertificateState, CertificateStatus};
use trust::TrustStore;

/// What is told of every issue and failure, for metrics. Called from the keeper: it must not block.
pub type EventSink = Arc<dyn Fn(CertificateEvent) + Send + Sync>;

#[derive(Clone)]
pub struct CertificateSettings {
    /// Only identities of this trust domain are issued.
    pub trust_domain: TrustDomain,
    /// Its other names, and whom it is federated with.
    pub trust_domains: TrustDomains,
    /// An authority that answers no sooner has failed.
    pub issue_deadline: Duration,
    pub clock: Clock,
    pub events: EventSink,
}

impl CertificateSettings {
    /// The system's clock, ten seconds for an issue, and events told to nobody.
    pub fn new(trust_domain: TrustDomain) -> Self {
        let events = Arc::new(|_| ());
        let trust_domains = TrustDomains::new(trust_domain.clone(), [], []);
        Self {
            trust_domain,
            trust_domains,
            issue_deadline: Duration::from_secs(10),
            clock: crate::system_clock(),
            events,
        }
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
    trust: TrustStore,
    entries: Mutex<BTreeMap<SpiffeId, watch::Sender<Entry>>>,
    revoked: ArcSwap<Revoked>,
    /// There is something new to do.
    wake: Notify,
}

impl Certificates {
    /// Must be called within a tokio runtime; the keeper runs there.
    pub fn start(authority: impl CertificateAuthority, settings: CertificateSettings) -> Self {
        let (trust_domain, events) = (settings.trust_domain.clone(), Arc::clone(&settings.events));
        let trust = TrustStore::new(trust_domain, settings.trust_domains.clone(), events);
        let shared = Arc::new(Shared {
            settings,
            trust,
            entries: Mutex::default(),
            revoked: ArcSwap::default(),
            wake: Notify::new(),
        });
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

    /// From now on identities of the bundle's trust domain are believed by these roots alone.
    pub fn give_bundle(&self, bundle: TrustBundle) {
        self.shared.trust.give(bundle);
    }

    /// Of the mesh's own trust domain, as it is now.
    pub fn own_bundle(&self) -> Arc<TrustBundle> {
        let own = &self.shared.settings.trust_domain;
        let nobody = || Arc::new(TrustBundle { trust_domain: own.clone(), roots: Vec::new() });
        self.shared.trust.current().bundle(own).cloned().unwrap_or_else(nobody)
    }

    /// From now on these certificates are of no use. Others are issued in place of those that are revoked.
    pub fn revoke(&self, revoked: Arc<Revoked>) {
        self.shared.revoked.store(revoked);
        self.shared.drop_revoked();
        self.shared.wake.notify_one();
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

    fn trust(&self) -> Arc<Trust> {
        self.shared.trust.current()
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
