//! A certificate authority for tests, and the certificates it makes, good and bad.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{
    SpiffeId, Svid, SvidError, SvidSource,
    svid::{SvidKey, TrustBundle},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, before anybody says whose it is.
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Certificates by the identity they are asked for, which need not be the one they prove.
pub(crate) struct Certificates(HashMap<SpiffeId, Arc<Svid>>);

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
    pub(crate) fn svid(&self, identity: &SpiffeId) -> Svid {
        self.used_as(identity, self.leaf(&[&identity.to_string()], |_| {}))
    }

    /// `leaf` in the hands of one who takes it for a certificate of `identity`, and who trusts this authority.
    pub(crate) fn used_as(&self, identity: &SpiffeId, leaf: Leaf) -> Svid {
        let roots = TrustBundle { trust_domain: identity.trust_domain().clone(), roots: vec![self.root()] };
        Svid {
            identity: identity.clone(),
            chain: vec![leaf.certificate],
            key: SvidKey::new(leaf.key),
            roots: Arc::new(roots),
            not_before: SystemTime::now(),
            not_after: SystemTime::now() + Duration::from_secs(3600),
            serial: "01".to_owned(),
        }
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
    pub(crate) fn new(svids: impl IntoIterator<Item = Svid>) -> Arc<Self> {
        let svids = svids.into_iter();
        Arc::new(Self(svids.map(|svid| (svid.identity.clone(), Arc::new(svid))).collect()))
    }
}

impl SvidSource for Certificates {
    async fn svid(&self, identity: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        self.0.get(identity).cloned().ok_or_else(|| SvidError::Unavailable {
            identity: identity.clone(),
            cause: "not in this test".into(),
        })
    }
}
