//! A key and its signing request, and the check that the answer is a certificate for just that.

use std::time::SystemTime;

use model::{
    Revoked, SpiffeId, Svid,
    revocation::CertificateId,
    svid::{Leaf, SvidKey, TrustBundle},
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SanType};
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::{AuthorityError, Issued, chain, trust::MAX_ROOTS};

/// A leaf and its intermediates.
const MAX_CHAIN: usize = 16;

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
        let key = Zeroizing::new(KeyPair::generate().map_err(unmade)?);
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(unmade)?)];
        let der = parameters.serialize_request(&*key).map_err(unmade)?.into();
        let public_key = key.subject_public_key_info();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self { identity: identity.clone(), der, public_key, key: SvidKey::new(secret) })
    }

    pub(super) fn der(&self) -> &CertificateSigningRequestDer<'static> {
        &self.der
    }

    /// Trusts the authority with nothing that can be checked here. `roots` are those that the chain must end in, if
    /// that is not left to the authority.
    pub(super) fn into_svid(
        self,
        issued: Issued,
        roots: Option<&TrustBundle>,
        now: SystemTime,
    ) -> Result<Svid, AuthorityError> {
        let wrong = |what: &str| AuthorityError::Answer(what.to_owned());
        let leaf = issued.chain.first().ok_or_else(|| wrong("an empty chain"))?;
        let leaf = Leaf::parse_own(leaf).map_err(|error| AuthorityError::Answer(error.to_string()))?;
        if leaf.identity != self.identity {
            return Err(AuthorityError::Answer(format!("another identity, {}", leaf.identity)));
        }
        if leaf.public_key != self.public_key {
            return Err(wrong("another key"));
        }
        if leaf.not_after <= now {
            return Err(wrong("it has expired already"));
        }
        if issued.chain.len() > MAX_CHAIN || issued.roots.len() > MAX_ROOTS {
            return Err(wrong("more certificates than any chain has"));
        }
        let roots = roots.map_or(&issued.roots, |given| &given.roots);
        chain::verify(&issued.chain, roots, now)
            .map_err(|error| AuthorityError::Answer(format!("its chain does not hold: {error}")))?;
        Ok(Svid {
            identity: self.identity,
            chain: issued.chain,
            key: self.key,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial,
        })
    }
}

/// Whether the certificate, or an issuer's that is sent along, is listed.
pub(super) fn is_revoked(svid: &Svid, revoked: &Revoked) -> bool {
    let parsed = svid.chain.iter().filter_map(|certificate| X509Certificate::from_der(certificate).ok());
    parsed
        .map(|(_, certificate)| {
            let domain = svid.identity.trust_domain();
            CertificateId::new(domain, certificate.issuer().as_raw(), certificate.raw_serial())
        })
        .any(|id| revoked.contains(&id))
}
