//! Whose certificates are believed, and by which roots.
//!
//! A root vouches for one trust domain: a peer is held against the bundle of its own trust domain and no other, so
//! that a partner's authority can name its own workloads and nobody else's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls_pki_types::CertificateDer;
use smallvec::SmallVec;

use crate::{SpiffeId, TrustDomain};

/// The certificates a trust domain's identities chain to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    pub trust_domain: TrustDomain,
    pub roots: Vec<CertificateDer<'static>>,
}

/// Which trust domains are one, and which others are believed. By default each is alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustDomains {
    /// The mesh's own and its aliases, or nothing.
    one: BTreeSet<TrustDomain>,
    federated: BTreeSet<TrustDomain>,
}

/// The bundles in force. Immutable: a change makes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    own: TrustDomain,
    domains: Arc<TrustDomains>,
    bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
}

impl TrustDomains {
    /// `aliases` are other names of `own`, such as one it had before: who has an identity in one has it in all.
    pub fn new(
        own: TrustDomain,
        aliases: impl IntoIterator<Item = TrustDomain>,
        federated: impl IntoIterator<Item = TrustDomain>,
    ) -> Self {
        let one: BTreeSet<_> = aliases.into_iter().chain([own]).collect();
        let federated = federated.into_iter().filter(|domain| !one.contains(domain)).collect();
        Self { one, federated }
    }

    pub fn are_one(&self, left: &TrustDomain, right: &TrustDomain) -> bool {
        left == right || self.one.contains(left) && self.one.contains(right)
    }

    /// Whether workloads of `local` talk to those of `peer` at all.
    pub fn accept(&self, local: &TrustDomain, peer: &TrustDomain) -> bool {
        self.are_one(local, peer) || self.federated.contains(peer)
    }

    /// All names of the trust domain, itself among them.
    pub fn names<'a>(&'a self, domain: &'a TrustDomain) -> impl Iterator<Item = &'a TrustDomain> {
        let others = self.one.iter().filter(move |other| *other != domain && self.are_one(other, domain));
        std::iter::once(domain).chain(others)
    }

    /// Whether both are the same workload, by whatever name of its trust domain.
    pub fn are_same(&self, left: &SpiffeId, right: &SpiffeId) -> bool {
        left.namespace() == right.namespace()
            && left.service_account() == right.service_account()
            && self.are_one(left.trust_domain(), right.trust_domain())
    }

    /// The other names of the same workload. Allocates nothing where there are none.
    pub fn other_names(&self, identity: &SpiffeId) -> SmallVec<[SpiffeId; 2]> {
        if self.one.len() < 2 || !self.one.contains(identity.trust_domain()) {
            return SmallVec::new();
        }
        let others = self.one.iter().filter(|domain| *domain != identity.trust_domain());
        // One too long to be an identity is nobody's name.
        others.filter_map(|domain| identity.in_trust_domain(domain).ok()).collect()
    }
}

impl Trust {
    /// The mesh's own bundle, and those of the trust domains it is federated with.
    pub fn new(
        domains: Arc<TrustDomains>,
        own: Arc<TrustBundle>,
        federated: impl IntoIterator<Item = Arc<TrustBundle>>,
    ) -> Self {
        let name = own.trust_domain.clone();
        let federated = federated.into_iter().filter(|bundle| !domains.are_one(&bundle.trust_domain, &name));
        let bundles = federated.chain([own]).map(|bundle| (bundle.trust_domain.clone(), bundle)).collect();
        Self { own: name, domains, bundles }
    }

    /// Of one trust domain that is alone.
    pub fn alone(own: TrustBundle) -> Self {
        let domains = TrustDomains::new(own.trust_domain.clone(), [], []);
        Self::new(Arc::new(domains), Arc::new(own), [])
    }

    pub fn domains(&self) -> &TrustDomains {
        &self.domains
    }

    /// All of them, the mesh's own among them.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.bundles.values()
    }

    /// The name under which the bundle for `domain` stands: an alias has the mesh's own.
    pub fn bundle_name<'a>(&'a self, domain: &'a TrustDomain) -> &'a TrustDomain {
        if self.domains.are_one(domain, &self.own) { &self.own } else { domain }
    }

    /// What identities of `domain` must chain to; without one, none of them is believed.
    pub fn bundle(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.bundles.get(self.bundle_name(domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> TrustDomain {
        text.parse().unwrap()
    }

    fn id(domain: &str) -> SpiffeId {
        format!("spiffe://{domain}/ns/a/sa/b").parse().unwrap()
    }

    fn bundle(text: &str, root: u8) -> Arc<TrustBundle> {
        Arc::new(TrustBundle { trust_domain: domain(text), roots: vec![vec![root].into()] })
    }

    fn trust() -> Trust {
        let domains = TrustDomains::new(domain("new"), [domain("old")], [domain("partner")]);
        Trust::new(Arc::new(domains), bundle("new", 1), [bundle("partner", 2), bundle("old", 3)])
    }

    /// Fails if a root that vouches for one trust domain vouches for another.
    #[test]
    fn each_trust_domain_has_its_own_bundle_an_alias_the_mesh_s_and_a_stranger_none() {
        let trust = trust();
        let root = |name: &str| trust.bundle(&domain(name)).map(|bundle| bundle.roots[0][0]);
        assert_eq!((root("new"), root("old")), (Some(1), Some(1)), "whatever bundle an alias is given");
        assert_eq!((root("partner"), root("stranger")), (Some(2), None));
    }

    #[test]
    fn names_of_one_domain_are_the_same_workload_s_and_those_of_others_are_not() {
        let trust = trust();
        let domains = trust.domains();
        assert!(domains.are_same(&id("new"), &id("old")) && domains.are_same(&id("old"), &id("new")));
        assert!(!domains.are_same(&id("new"), &id("partner")) && !domains.are_same(&id("x"), &id("new")));
        let other: SpiffeId = "spiffe://old/ns/a/sa/c".parse().unwrap();
        assert!(!domains.are_same(&id("new"), &other));
        assert_eq!(domains.other_names(&id("new")).as_slice(), [id("old")]);
        assert!(domains.other_names(&id("partner")).is_empty());
        assert!(TrustDomains::default().other_names(&id("new")).is_empty());
    }

    #[test]
    fn only_one_s_own_and_the_federated_are_accepted() {
        let trust = trust();
        let accept = |local: &str, peer: &str| trust.domains().accept(&domain(local), &domain(peer));
        assert!(accept("new", "new") && accept("new", "old") && accept("old", "new"));
        assert!(accept("new", "partner") && !accept("new", "stranger"));
        assert!(!TrustDomains::default().accept(&domain("new"), &domain("old")));
    }
}
