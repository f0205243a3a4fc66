//! What a certificate must be to sign others, wherever it stands: X509-SVID specification, sections 3.2, 4.1 and 4.3.

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::TrustDomain;

/// Why a certificate vouches for nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAuthority {
    #[error("not an X.509 certificate")]
    Unreadable,
    #[error("expected the certificate of a certificate authority")]
    NotCa,
    #[error("its key usage lacks keyCertSign")]
    NoCertSign,
    #[error("an authority's SPIFFE id is a trust domain without a path, not {0}")]
    Named(String),
}

/// CA, keyCertSign, and if it has a SPIFFE id, that of a trust domain, without a path: which.
pub fn authority_domain(certificate: &[u8]) -> Result<Option<TrustDomain>, NotAnAuthority> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NotAnAuthority::Unreadable)?;
    let constraints = parsed.basic_constraints().map_err(|_| NotAnAuthority::Unreadable)?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(NotAnAuthority::NotCa);
    }
    let usage = parsed.key_usage().map_err(|_| NotAnAuthority::Unreadable)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(NotAnAuthority::NoCertSign);
    }
    let names = parsed.subject_alternative_name().map_err(|_| NotAnAuthority::Unreadable)?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let mut uris = names.filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe:") => Some(*uri),
        _ => None,
    });
    let Some(uri) = uris.next() else { return Ok(None) };
    let domain = uri.strip_prefix("spiffe://").and_then(|rest| rest.parse().ok());
    match (domain, uris.next()) {
        (Some(domain), None) => Ok(Some(domain)),
        (_, second) => Err(NotAnAuthority::Named(second.unwrap_or(uri).to_owned())),
    }
}
