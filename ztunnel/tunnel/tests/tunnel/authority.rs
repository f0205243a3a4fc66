//! A certificate authority for tests, and the certificates it makes, good and bad.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{
    SpiffeId, Svid, SvidError, SvidSource, Trust,
    svid::{SvidKey, TrustBundle},
};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, before anybody says whose it is.
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// A certificate, and whom its holder believes.
pub(crate) struct Held {
    pub(crate) svid: Svid,
    trust: Arc<Trust>,
}

/// Certificates by the identity they are asked for, which need not be the one they prove, and whom to believe.
pub(crate) struct Certificates {
    svids: HashMap<SpiffeId, Arc<Svid>>,
    trust: Mutex<Arc<Trust>>,
}

pub(crate) fn id(service_account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{service_account}").parse().unwrap()
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// One below this, as `change` has it.
    pub(crate) fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        Self(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
        Leaf { certificate, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }

    /// As it should be.
    pub(crate) fn svid(&self, identity: &SpiffeId) -> Held {
        self.used_as(identity, self.leaf(&[&identity.to_string()], |_| {}))
    }

    /// This authority's root as a bundle of `trust_domain`.
    pub(crate) fn bundle(&self, trust_domain: &str) -> Arc<TrustBundle> {
        let trust_domain = trust_domain.parse().unwrap();
        Arc::new(TrustBundle { trust_domain, roots: vec![self.root()] })
    }

    /// What the mesh's own workloads believe: this authority alone.
    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::alone((*self.bundle("cluster.local")).clone()))
    }

    /// `leaf` in the hands of one who takes it for a certificate of `identity`, and who trusts this authority.
    pub(crate) fn used_as(&self, identity: &SpiffeId, leaf: Leaf) -> Held {
        let svid = Svid {
            identity: identity.clone(),
            chain: vec![leaf.certificate],
            key: SvidKey::new(leaf.key),
            not_before: SystemTime::now(),
            not_after: SystemTime::now() + Duration::from_secs(3600),
            serial: "01".to_owned(),
        };
        Held { svid, trust: self.trust() }
    }
}

pub(crate) fn for_ten_minutes(params: &mut CertificateParams) {
    params.not_after = (SystemTime::now() + Duration::from_secs(600)).into();
}

pub(crate) fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 2);
}

impl Certificates {
    /// They trust whom the first of them trusts.
    pub(crate) fn new(held: impl IntoIterator<Item = Held>) -> Arc<Self> {
        let held: Vec<Held> = held.into_iter().collect();
        let nobody = || TrustBundle { trust_domain: "cluster.local".parse().unwrap(), roots: Vec::new() };
        let trust =
            held.first().map_or_else(|| Arc::new(Trust::alone(nobody())), |held| Arc::clone(&held.trust));
        let svids =
            held.into_iter().map(|Held { svid, .. }| (svid.identity.clone(), Arc::new(svid))).collect();
        Arc::new(Self { svids, trust: Mutex::new(trust) })
    }

    pub(crate) fn believe(&self, trust: Arc<Trust>) {
        *self.trust.lock() = trust;
    }
}

impl SvidSource for Certificates {
    async fn svid(&self, identity: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        self.svids.get(identity).cloned().ok_or_else(|| SvidError::Unavailable {
            identity: identity.clone(),
            cause: "not in this test".into(),
        })
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.lock())
    }
}
