//! What a certificate must be to sign others, in any place: root, intermediate, bundle of another trust domain.

use std::time::{Duration, SystemTime};

use model::{TrustDomain, svid::authority_domain};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

/// Why a certificate may sign no others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotASigner {
    #[error("it is the root of trust domain {0}")]
    OfAnother(String),
    #[error("{0}")]
    Unfit(String),
}

/// From when to when it may sign.
#[derive(Clone, Debug)]
pub(super) struct Signing {
    /// SubjectPublicKeyInfo, DER.
    pub(super) public_key: Vec<u8>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) is_self_signed: bool,
}

/// Fit to sign SVIDs ([`authority_domain`]). A root that says of which trust domain it is must not vouch for another; an intermediate may.
pub(super) fn check(
    certificate: &CertificateDer<'static>,
    root_of: Option<&TrustDomain>,
) -> Result<Signing, NotASigner> {
    let unfit = |problem: &str| NotASigner::Unfit(problem.to_owned());
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| unfit("not an X.509 certificate"))?;
    let is_self_signed = parsed.subject() == parsed.issuer();
    let named = authority_domain(certificate).map_err(|error| unfit(&error.to_string()))?;
    if let Some(named) = named.filter(|named| root_of.is_some_and(|domain| domain != named)) {
        return Err(NotASigner::OfAnother(named.to_string()));
    }
    RootCertStore::empty().add(certificate.clone()).map_err(|error| unfit(&error.to_string()))?;
    let validity = parsed.validity();
    Ok(Signing {
        public_key: parsed.public_key().raw.to_vec(),
        not_before: instant(validity.not_before),
        not_after: instant(validity.not_after),
        is_self_signed,
    })
}

pub(crate) fn instant(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
