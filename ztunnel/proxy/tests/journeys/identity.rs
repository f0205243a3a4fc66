//! A certificate authority for tests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use model::{
    SpiffeId, Svid, SvidError, SvidSource, Trust, TrustDomain,
    svid::{SvidKey, TrustBundle},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;

pub(crate) struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    trust: Arc<Trust>,
    issued: Mutex<HashMap<SpiffeId, Arc<Svid>>>,
    /// Whose certificates are not there yet.
    withheld: watch::Sender<Option<SpiffeId>>,
}

impl TestAuthority {
    pub(crate) fn new(trust_domain: &TrustDomain) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::OrganizationName, "test root");
        let root = params.self_signed(&key).unwrap().der().clone();
        let bundle = TrustBundle { trust_domain: trust_domain.clone(), roots: vec![root] };
        Self {
            issuer: Issuer::new(params, key),
            trust: Arc::new(Trust::alone(bundle)),
            issued: Mutex::default(),
            withheld: watch::Sender::default(),
        }
    }

    /// Nothing is issued to this identity until [`TestAuthority::release`].
    pub(crate) fn withhold(&self, identity: &SpiffeId) {
        self.withheld.send_replace(Some(identity.clone()));
    }

    pub(crate) fn release(&self) {
        self.withheld.send_replace(None);
    }

    fn issue(&self, identity: &SpiffeId) -> Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Svid {
            identity: identity.clone(),
            chain: vec![certificate.der().clone()],
            key: SvidKey::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))),
            not_before: now,
            not_after: now + Duration::from_secs(3600),
            serial: "01".into(),
        }
    }
}

impl SvidSource for TestAuthority {
    async fn svid(&self, identity: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        let is_given = |withheld: &Option<SpiffeId>| withheld.as_ref() != Some(identity);
        self.withheld.subscribe().wait_for(is_given).await.unwrap();
        let mut issued = self.issued.lock().unwrap();
        Ok(Arc::clone(issued.entry(identity.clone()).or_insert_with(|| Arc::new(self.issue(identity)))))
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust)
    }
}
