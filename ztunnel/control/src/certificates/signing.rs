//! What a certificate must be to sign others, in any place: root, intermediate, bundle of another trust domain.

use std::time::{Duration, SystemTime};

use model::TrustDomain;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

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

/// X509-SVID specification, sections 3.2, 4.1 and 4.3: CA, keyCertSign, and if it has a SPIFFE id, that of a trust domain,
/// without a path. A root that says of which trust domain it is must not vouch for another; an intermediate may.
pub(super) fn check(
    certificate: &CertificateDer<'static>,
    root_of: Option<&TrustDomain>,
) -> Result<Signing, NotASigner> {
    let unfit = |problem: &str| NotASigner::Unfit(problem.to_owned());
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| unfit("not an X.509 certificate"))?;
    let is_self_signed = parsed.subject() == parsed.issuer();
    if !parsed.is_ca() {
        return Err(unfit("expected the certificate of a certificate authority"));
    }
    let usage = parsed.key_usage().map_err(|error| unfit(&error.to_string()))?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(unfit("its key usage lacks keyCertSign"));
    }
    for name in spiffe_names(&parsed).map_err(|error| unfit(&error))? {
        let named = name.strip_prefix("spiffe://").and_then(|rest| rest.parse::<TrustDomain>().ok());
        let named = named.ok_or_else(|| {
            unfit(&format!("an authority's SPIFFE id is a trust domain without a path, not {name}"))
        })?;
        if root_of.is_some_and(|domain| *domain != named) {
            return Err(NotASigner::OfAnother(named.to_string()));
        }
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

fn spiffe_names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, String> {
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(names
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("spiffe:") => Some(*uri),
            _ => None,
        })
        .collect())
}

pub(crate) fn instant(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
