//! Makes certificates: those of the mesh, and all that only look like them.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use testkit::Mesh;

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Between the root and what this one signs.
    intermediates: Vec<CertificateDer<'static>>,
}

pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Authority {
    /// The mesh's own.
    pub(super) fn of(mesh: &Mesh) -> Self {
        let key = KeyPair::from_pem(&read(mesh, "ca.key")).unwrap();
        Self::new(Issuer::from_ca_cert_pem(&read(mesh, "ca.pem"), key).unwrap())
    }

    /// Has the name of the mesh's and not its key.
    pub(super) fn namesake(mesh: &Mesh) -> Self {
        Self::new(Issuer::from_ca_cert_pem(&read(mesh, "ca.pem"), KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn stranger() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "A stranger");
        Self::new(Issuer::new(params, KeyPair::generate().unwrap()))
    }

    /// Of another trust domain, with its root in PEM.
    pub(super) fn partner() -> (Self, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "A partner");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        (Self::new(Issuer::new(params, key)), root)
    }

    /// A workload that signs with the key of its own good certificate.
    pub(super) fn upstart(mesh: &Mesh, identity: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = params(&[identity]);
        let certificate = params.signed_by(&key, &Self::of(mesh).issuer).unwrap();
        Self { issuer: Issuer::new(params, key), intermediates: vec![certificate.der().clone()] }
    }

    /// A certificate with these URI names.
    pub(super) fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = params(uris);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let mut chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Leaf { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }

    fn new(issuer: Issuer<'static, KeyPair>) -> Self {
        Self { issuer, intermediates: Vec::new() }
    }
}

pub(super) fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 2);
}

pub(super) fn not_valid_yet(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2200, 1, 1);
    params.not_after = date_time_ymd(2200, 1, 2);
}

/// Good for servers and no clients.
pub(super) fn for_servers(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

pub(super) fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())).collect();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn read(mesh: &Mesh, file: &str) -> String {
    fs::read_to_string(mesh.directory().join(file)).unwrap()
}
