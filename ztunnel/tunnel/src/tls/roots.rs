//! The bundles in force, as TLS asks them: made once for each change of trust, and shared by all identities.

use std::{collections::HashMap, fmt, sync::Arc};

use model::{SpiffeId, Trust, TrustDomain, svid::TrustBundle};
use rustls::{
    CertificateError, DistinguishedName, Error, RootCertStore,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::CertificateDer;

use super::revocation::Revocation;

pub(super) struct Roots {
    trust: Arc<Trust>,
    /// By the name of the bundle. One without a root believes nobody, and is not here.
    of: HashMap<TrustDomain, Bundle>,
    revocation: Arc<Revocation>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What peers of one trust domain are held against.
pub(super) struct Bundle {
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) servers: Arc<RootCertStore>,
}

impl Roots {
    pub(super) fn new(
        trust: &Arc<Trust>,
        revocation: &Arc<Revocation>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let filled = trust.bundles().filter(|bundle| !bundle.roots.is_empty());
        let bundles = filled.map(|bundle| Ok((bundle.trust_domain.clone(), Bundle::new(bundle, provider)?)));
        let of = bundles.collect::<Result<HashMap<_, _>, Error>>()?;
        let hints = of.values().flat_map(|bundle| bundle.clients.root_hint_subjects().to_vec()).collect();
        let algorithms = provider.signature_verification_algorithms;
        let (trust, revocation) = (Arc::clone(trust), Arc::clone(revocation));
        Ok(Self { trust, of, revocation, hints, algorithms })
    }

    pub(super) fn is_of(&self, trust: &Arc<Trust>) -> bool {
        Arc::ptr_eq(&self.trust, trust)
    }

    /// What a peer that claims to be of `domain` is held against: that domain's bundle, and no other's.
    pub(super) fn of(&self, domain: &TrustDomain) -> Option<&Bundle> {
        self.of.get(self.trust.bundle_name(domain))
    }

    /// Whether both are names of one trust domain, with one bundle.
    pub(super) fn are_one(&self, one: &TrustDomain, other: &TrustDomain) -> bool {
        self.trust.bundle_name(one) == self.trust.bundle_name(other)
    }

    /// Refuses a chain, good otherwise, of which any certificate is revoked.
    pub(super) fn refuse_revoked(
        &self,
        domain: &TrustDomain,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), CertificateError> {
        self.revocation.check(domain, leaf, intermediates)
    }

    /// Whether `peer` is one of `expected`, by whatever name of the mesh's trust domain.
    pub(super) fn are_among(&self, expected: &[SpiffeId], peer: &SpiffeId) -> bool {
        expected.iter().any(|one| self.trust.domains().are_same(one, peer))
    }

    /// The names of all roots, for clients that choose a certificate by them.
    pub(super) fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }
}

impl Bundle {
    fn new(bundle: &TrustBundle, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        bundle.roots.iter().try_for_each(|root| store.add(root.clone()))?;
        let servers = Arc::new(store);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&servers), Arc::clone(provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { clients, servers })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.of.keys()).finish()
    }
}
