//! The TLS configurations of the local identities: one set for each certificate, made once and not for each
//! handshake. They follow the certificates: a renewed one replaces its predecessor's, a dropped one takes its own away.
//! And they follow trust: the first handshake after a change goes by the bundles then in force.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use model::{SpiffeId, Svid, Trust, revocation::CertificateId};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, Error, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{
    ALPN,
    revocation::{Revocation, ids},
    roots::Roots,
    verify::{ExpectedServer, TrustDomainClients},
};

/// A node has tens of identities. Past this many, the ones in use are made anew now and then.
const MAX_IDENTITIES: usize = 4096;

pub(crate) struct Identities {
    provider: Arc<CryptoProvider>,
    revocation: Arc<Revocation>,
    /// Those of the trust in force.
    roots: Mutex<Option<Arc<Roots>>>,
    known: Mutex<HashMap<SpiffeId, Arc<Identity>>>,
}

/// What is made of one certificate.
pub(crate) struct Identity {
    svid: Weak<Svid>,
    ids: Arc<[CertificateId]>,
    server: Arc<ServerConfig>,
    /// Expects nobody: each connection puts its own expectations in.
    client: ClientConfig,
    roots: Arc<Roots>,
}

impl Identities {
    pub(crate) fn new(revocation: Arc<Revocation>) -> Self {
        let provider = Arc::new(provider());
        Self { provider, revocation, roots: Mutex::default(), known: Mutex::default() }
    }

    /// The configurations of a certificate and the trust that their source gave just now.
    pub(crate) fn of(&self, svid: &Arc<Svid>, trust: &Arc<Trust>) -> Result<Arc<Identity>, Error> {
        if let Some(identity) = self.known.lock().get(&svid.identity)
            && identity.is_of(svid)
            && identity.roots.is_of(trust)
        {
            return Ok(Arc::clone(identity));
        }
        let identity = Arc::new(Identity::new(svid, self.roots(trust)?, &self.provider)?);
        let mut known = self.known.lock();
        if known.len() >= MAX_IDENTITIES {
            known.clear();
        }
        known.insert(svid.identity.clone(), Arc::clone(&identity));
        known.retain(|_, identity| identity.is_current());
        Ok(identity)
    }

    fn roots(&self, trust: &Arc<Trust>) -> Result<Arc<Roots>, Error> {
        let mut known = self.roots.lock();
        if let Some(roots) = known.as_ref().filter(|roots| roots.is_of(trust)) {
            return Ok(Arc::clone(roots));
        }
        let roots = Arc::new(Roots::new(trust, &self.revocation, &self.provider)?);
        *known = Some(Arc::clone(&roots));
        Ok(roots)
    }

    /// Forgets the keys of certificates that nobody holds any more.
    pub(crate) fn sweep(&self) {
        self.known.lock().retain(|_, identity| identity.is_current());
    }
}

impl Identity {
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// To connect to a server that must prove one of `expected`.
    pub(crate) fn client(&self, expected: &[SpiffeId]) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        let verifier = expecting(expected.into(), &self.roots);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }

    /// By what lists name its certificates.
    pub(crate) fn ids(&self) -> &Arc<[CertificateId]> {
        &self.ids
    }

    fn new(svid: &Arc<Svid>, roots: Arc<Roots>, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let key = aws_lc_rs::sign::any_supported_type(svid.key.expose())?;
        let certified = CertifiedKey::new(svid.chain.clone(), key);
        certified.keys_match()?;
        let certified = Arc::new(SingleCertAndKey::from(certified));
        Ok(Self {
            svid: Arc::downgrade(svid),
            ids: ids(svid.identity.trust_domain(), &svid.chain)?.into(),
            server: Arc::new(server(&roots, Arc::clone(&certified), provider)?),
            client: client(&roots, certified, provider)?,
            roots,
        })
    }

    /// A `Weak` keeps its allocation, so no later certificate has the same address.
    fn is_of(&self, svid: &Arc<Svid>) -> bool {
        std::ptr::eq(self.svid.as_ptr(), Arc::as_ptr(svid))
    }

    fn is_current(&self) -> bool {
        self.svid.strong_count() > 0
    }
}

fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

fn server(
    roots: &Arc<Roots>,
    certified: Arc<SingleCertAndKey>,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, Error> {
    let verifier = TrustDomainClients { roots: Arc::clone(roots) };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certified);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    roots: &Arc<Roots>,
    certified: Arc<SingleCertAndKey>,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientConfig, Error> {
    let nobody = expecting([].into(), roots);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(certified);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn expecting(expected: Box<[SpiffeId]>, roots: &Arc<Roots>) -> ExpectedServer {
    ExpectedServer { roots: Arc::clone(roots), expected }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use model::svid::{SvidKey, TrustBundle};
    use rcgen::{CertificateParams, KeyPair};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;

    fn svid(service_account: &str) -> Arc<Svid> {
        let identity: SpiffeId =
            format!("spiffe://cluster.local/ns/default/sa/{service_account}").parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().der().clone();
        Arc::new(Svid {
            identity,
            chain: vec![certificate],
            key: SvidKey::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()),
            not_before: SystemTime::now(),
            not_after: SystemTime::now(),
            serial: String::new(),
        })
    }

    fn trust() -> Arc<Trust> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        let trust_domain = "cluster.local".parse().unwrap();
        Arc::new(Trust::alone(TrustBundle { trust_domain, roots: vec![root] }))
    }

    /// Fails if a handshake parses the key again.
    #[test]
    fn a_configuration_is_made_once_for_each_certificate() {
        let identities = Identities::new(Arc::default());
        let (first, renewed) = (svid("a"), svid("a"));
        let (trust, changed) = (trust(), trust());
        let made = identities.of(&first, &trust).unwrap();
        assert!(Arc::ptr_eq(&made, &identities.of(&first, &trust).unwrap()));
        assert!(Arc::ptr_eq(&made.server(), &identities.of(&first, &trust).unwrap().server()));
        let new = identities.of(&renewed, &trust).unwrap();
        assert!(!Arc::ptr_eq(&made, &new), "a renewed certificate is used at once");
        assert!(Arc::ptr_eq(&made.roots, &new.roots), "roots are parsed once for all");
        let changed = identities.of(&renewed, &changed).unwrap();
        assert!(!Arc::ptr_eq(&changed.roots, &new.roots), "a change of trust is in force at once");
    }

    /// Fails if the keys of pods long gone stay in memory.
    #[test]
    fn what_nobody_holds_is_forgotten() {
        let identities = Identities::new(Arc::default());
        let (gone, stays) = (svid("gone"), svid("stays"));
        let trust = trust();
        identities.of(&gone, &trust).unwrap();
        identities.of(&stays, &trust).unwrap();
        drop(gone);
        identities.sweep();
        assert_eq!(identities.known.lock().keys().collect::<Vec<_>>(), [&stays.identity]);
    }
}
