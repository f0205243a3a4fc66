//! Roots, and certificates for whoever is named.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ServerConfig, crypto::aws_lc_rs};

use super::{Behaviour, Mood};

/// A self-signed authority.
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Root {
    #[expect(clippy::expect_used, reason = "a test cannot go on without its certificates, and says so")]
    pub fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = parameters.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// An intermediate below this root: its certificate and its key, in PEM.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its certificates, and says so")]
    pub fn intermediate(&self, name: &str) -> (String, String) {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("an intermediate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A certificate of this name over the key of `csr`, as the mood has it.
    pub(super) fn sign(&self, csr: &str, identity: &str, mood: &Mood) -> Result<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let named = match &mood.behaviour {
            Behaviour::AnotherIdentity(other) => other,
            _ => identity,
        };
        request.params = leaf(named, mood)?;
        if mood.behaviour == Behaviour::AnotherKey {
            return Ok(request.params.signed_by(&KeyPair::generate()?, &self.issuer)?.pem());
        }
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

fn leaf(identity: &str, mood: &Mood) -> Result<CertificateParams> {
    let now = SystemTime::now();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (not_before, not_after) = match mood.behaviour {
        Behaviour::Expired => (now - 2 * mood.lifetime, now - mood.lifetime),
        Behaviour::NotValidYet => (now + mood.lifetime, now + 2 * mood.lifetime),
        _ => (now - mood.lifetime, now + mood.lifetime),
    };
    parameters.not_before = not_before.into();
    parameters.not_after = not_after.into();
    if mood.behaviour == Behaviour::Signing {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }
    Ok(parameters)
}

/// For a server at `ip` that also calls itself `localhost`, with the root to trust for it.
pub(super) fn tls(ip: IpAddr) -> Result<(Arc<ServerConfig>, String)> {
    let root = Root::new("the CA's own TLS");
    let mut parameters = CertificateParams::new(vec![ip.to_string(), "localhost".to_owned()])?;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let leaf = parameters.signed_by(&key, &root.issuer)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(config), root.pem))
}
