//! What a certificate must be to sign others, in any place: root, intermediate, bundle of another trust domain.

use std::time::{Duration, SystemTime};

use model::TrustDomain;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

/// Until when it may sign; from when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signing {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) is_self_signed: bool,
}

/// X509-SVID specification, sections 3.2, 4.1 and 4.3: CA, keyCertSign, and if it has a SPIFFE id, that of a trust domain,
/// without a path. A root that says of which trust domain it is must not vouch for another; an intermediate may.
pub(super) fn check(
    certificate: &CertificateDer<'static>,
    root_of: Option<&TrustDomain>,
) -> Result<Signing, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| "not an X.509 certificate")?;
    let is_self_signed = parsed.subject() == parsed.issuer();
    if !parsed.is_ca() {
        return Err("expected the certificate of a certificate authority".to_owned());
    }
    let usage = parsed.key_usage().map_err(|error| error.to_string())?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("its key usage lacks keyCertSign".to_owned());
    }
    for name in spiffe_names(&parsed)? {
        let named: TrustDomain =
            name.strip_prefix("spiffe://").and_then(|rest| rest.parse().ok()).ok_or_else(|| {
                format!("an authority's SPIFFE id is a trust domain without a path, not {name}")
            })?;
        if let Some(domain) = root_of.filter(|domain| **domain != named) {
            return Err(format!("it is not the root of trust domain {domain}"));
        }
    }
    RootCertStore::empty().add(certificate.clone()).map_err(|error| error.to_string())?;
    let validity = parsed.validity();
    Ok(Signing {
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
