//! A key and its signing request, and the check that the answer is a certificate for just that.

use std::time::{Duration, SystemTime};

use model::{SpiffeId, Svid, svid::SvidKey};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SanType};
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};
use zeroize::Zeroize;

use super::{AuthorityError, Issued};

pub(super) struct Request {
    identity: SpiffeId,
    der: CertificateSigningRequestDer<'static>,
    /// SubjectPublicKeyInfo.
    public_key: Vec<u8>,
    key: SvidKey,
}

impl Request {
    /// A fresh ECDSA P-256 key and a request with an empty subject and the identity as its only name.
    pub(super) fn new(identity: &SpiffeId) -> Result<Self, AuthorityError> {
        let unmade = |error: rcgen::Error| AuthorityError::Request(error.to_string());
        let mut key = KeyPair::generate().map_err(unmade)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(unmade)?)];
        let der = parameters.serialize_request(&key).map_err(unmade)?.into();
        let public_key = key.subject_public_key_info();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        key.zeroize();
        Ok(Self { identity: identity.clone(), der, public_key, key: SvidKey::new(secret) })
    }

    pub(super) fn der(&self) -> &CertificateSigningRequestDer<'static> {
        &self.der
    }

    /// Trusts the authority with nothing that can be checked here.
    pub(super) fn into_svid(self, issued: Issued, now: SystemTime) -> Result<Svid, AuthorityError> {
        let wrong = |what: &str| AuthorityError::Answer(what.to_owned());
        let leaf = issued.chain.first().ok_or_else(|| wrong("an empty chain"))?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| wrong("not a certificate"))?;
        if only_name(&leaf) != Some(self.identity.as_str()) {
            return Err(wrong("another name than the identity"));
        }
        if leaf.public_key().raw != self.public_key {
            return Err(wrong("another key"));
        }
        let (not_before, not_after) =
            (instant(leaf.validity().not_before), instant(leaf.validity().not_after));
        if not_after <= now {
            return Err(wrong("it has expired already"));
        }
        if issued.roots.trust_domain != *self.identity.trust_domain() || issued.roots.roots.is_empty() {
            return Err(wrong("no roots of the identity's trust domain"));
        }
        let serial = leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Svid {
            identity: self.identity,
            chain: issued.chain,
            key: self.key,
            roots: issued.roots,
            not_before,
            not_after,
            serial,
        })
    }
}

/// The URI, if that is all the certificate is named.
pub(super) fn only_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    match names.value.general_names[..] {
        [GeneralName::URI(uri)] => Some(uri),
        _ => None,
    }
}

pub(super) fn instant(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
