//! Whom this node believes, at every moment.
//!
//! The bundle of the mesh's own trust domain is what a file says, if there is one for it. Else it is what came with
//! certificates: a root is believed for as long as one of our certificates lives with which it came, so that during a
//! rotation the old and the new overlap. Bundles of other trust domains come from files only.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use model::{Trust, TrustDomain, TrustDomains, svid::TrustBundle};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;

use super::{
    EventSink,
    audit::{self, Change},
};

/// Of one trust domain. An authority that hands out a new root with each certificate must not fill our memory.
pub(super) const MAX_ROOTS: usize = 64;

pub(super) struct TrustStore {
    own: TrustDomain,
    domains: Arc<TrustDomains>,
    state: Mutex<State>,
    current: ArcSwap<Trust>,
    events: EventSink,
}

#[derive(Default)]
struct State {
    learnt: Vec<Learnt>,
    /// From files. The mesh's own goes before what is learnt.
    given: BTreeMap<TrustDomain, Arc<TrustBundle>>,
}

struct Learnt {
    root: CertificateDer<'static>,
    /// Until then it is believed, and longer if it comes again.
    until: SystemTime,
}

impl TrustStore {
    pub(super) fn new(own: TrustDomain, domains: TrustDomains, events: EventSink) -> Self {
        let domains = Arc::new(domains);
        let state = State::default();
        let current = ArcSwap::from_pointee(state.trust(&own, &domains));
        Self { own, domains, state: Mutex::new(state), current, events }
    }

    pub(super) fn current(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// What our own certificates must chain to, if that is said by a file.
    pub(super) fn given_own(&self) -> Option<Arc<TrustBundle>> {
        self.state.lock().given.get(&self.own).cloned()
    }

    /// These came with a certificate that lives until `until`.
    pub(super) fn learn(&self, roots: &[CertificateDer<'static>], until: SystemTime, now: SystemTime) {
        self.change(Change::Root, |state| {
            for root in roots {
                match state.learnt.iter_mut().find(|learnt| learnt.root == *root) {
                    Some(learnt) => learnt.until = learnt.until.max(until),
                    None => state.learnt.push(Learnt { root: root.clone(), until }),
                }
            }
            state.forget(now);
        });
    }

    /// Drops what came with none of the certificates that live.
    pub(super) fn forget(&self, now: SystemTime) {
        self.change(Change::Root, |state| state.forget(now));
    }

    /// From a file.
    pub(super) fn give(&self, bundle: TrustBundle) {
        let change = if bundle.trust_domain == self.own { Change::Root } else { Change::Bundle };
        self.change(change, |state| {
            state.given.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        });
    }

    fn change(&self, what: Change, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let (before, after) = (self.current(), Arc::new(state.trust(&self.own, &self.domains)));
        if before == after {
            return;
        }
        self.current.store(Arc::clone(&after));
        drop(state);
        audit::trust_changed(what, &before, &after, &self.events);
    }
}

impl State {
    fn trust(&self, own: &TrustDomain, domains: &Arc<TrustDomains>) -> Trust {
        let learnt = || TrustBundle {
            trust_domain: own.clone(),
            roots: self.learnt.iter().map(|learnt| learnt.root.clone()).collect(),
        };
        let own = self.given.get(own).cloned().unwrap_or_else(|| Arc::new(learnt()));
        Trust::new(Arc::clone(domains), own, self.given.values().cloned())
    }

    /// Those that lived longest stay if all are over: a node that slept must be able to tell its peers again.
    fn forget(&mut self, now: SystemTime) {
        let longest = self.learnt.iter().map(|learnt| learnt.until).max().unwrap_or(now);
        self.learnt.retain(|learnt| learnt.until > now || learnt.until == longest);
        if self.learnt.len() > MAX_ROOTS {
            self.learnt.sort_by_key(|learnt| std::cmp::Reverse(learnt.until));
            self.learnt.truncate(MAX_ROOTS);
        }
    }
}
