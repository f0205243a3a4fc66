//! What a leaf certificate says, if it is an X.509-SVID (SPIFFE X509-SVID specification, sections 2 to 5).
//!
//! Whether somebody who may has signed it is not asked here: that is the chain's matter. Both sides of the same rules
//! read this: a tunnel of its peer's certificate, the control side of what an authority hands out.

use std::time::{Duration, SystemTime};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use crate::SpiffeId;

/// A leaf's own account of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub identity: SpiffeId,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Hexadecimal, as in certificate tools.
    pub serial: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

/// Why a certificate is no X.509-SVID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotALeaf {
    #[error("it is no X.509 certificate")]
    Unreadable,
    /// Section 2: exactly one URI name, and with it exactly one SPIFFE id.
    #[error("the certificate has {uris} URI names and needs one, a SPIFFE id")]
    NotOneSpiffeId { uris: usize },
    /// Section 5.2: not CA, neither keyCertSign nor cRLSign.
    #[error("it is a signing certificate, which proves no identity")]
    Signing,
    /// Section 4.3: leaves sign handshakes.
    #[error("its key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// Section 4.4: if it is there, for both roles.
    #[error("its extended key usage lacks serverAuth or clientAuth")]
    OneRole,
}

impl Leaf {
    /// What whoever meets a peer must check besides the chain, section 5.2. For which role the certificate may be used
    /// is checked with the chain.
    pub fn parse(der: &[u8]) -> Result<Self, NotALeaf> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotALeaf::Unreadable)?;
        refuse_signing(&certificate)?;
        Ok(Self {
            identity: identity(&certificate)?,
            not_before: instant(certificate.validity().not_before),
            not_after: instant(certificate.validity().not_after),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// The same of a certificate that was made for us: it must do in both roles.
    pub fn parse_own(der: &[u8]) -> Result<Self, NotALeaf> {
        let leaf = Self::parse(der)?;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotALeaf::Unreadable)?;
        let extended = certificate.extended_key_usage().map_err(|_| NotALeaf::OneRole)?;
        match extended {
            Some(usage) if !(usage.value.any || usage.value.server_auth && usage.value.client_auth) => {
                Err(NotALeaf::OneRole)
            }
            _ => Ok(leaf),
        }
    }
}

fn refuse_signing(certificate: &X509Certificate<'_>) -> Result<(), NotALeaf> {
    let constraints = certificate.basic_constraints().map_err(|_| NotALeaf::Signing)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(NotALeaf::Signing);
    }
    let Some(usage) = certificate.key_usage().map_err(|_| NotALeaf::Signing)? else { return Ok(()) };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(NotALeaf::Signing);
    }
    // RFC 8446, section 4.4.2.2, asks for the same.
    if usage.value.digital_signature() { Ok(()) } else { Err(NotALeaf::NoDigitalSignature) }
}

fn identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, NotALeaf> {
    let none = || NotALeaf::NotOneSpiffeId { uris: 0 };
    let names = certificate.subject_alternative_name().map_err(|_| none())?.ok_or_else(none)?;
    let uris: Vec<&str> = names.value.general_names.iter().filter_map(uri).collect();
    let [uri] = uris[..] else { return Err(NotALeaf::NotOneSpiffeId { uris: uris.len() }) };
    uri.parse().map_err(|_| NotALeaf::NotOneSpiffeId { uris: 1 })
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

fn instant(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
