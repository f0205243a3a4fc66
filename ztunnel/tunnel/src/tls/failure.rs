//! What went wrong in a handshake, told from the error's own type and never from its text.

use std::{io, sync::Arc};

use model::svid::NotALeaf;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible};

use super::verify::IdentityError;
use crate::error::TlsFailure;

/// The failure behind the I/O error that a handshake ended with.
pub(crate) fn classify(error: io::Error) -> TlsFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_rustls(error),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                TlsFailure::Closed
            }
            _ => TlsFailure::Io(Arc::new(error)),
        },
    }
}

fn of_rustls(error: &Error) -> TlsFailure {
    match error {
        Error::NoCertificatesPresented => TlsFailure::NoClientCertificate,
        Error::InvalidCertificate(certificate) => of_certificate(certificate),
        Error::PeerIncompatible(incompatible) if is_version(incompatible) => TlsFailure::TlsVersion,
        Error::NoApplicationProtocol => TlsFailure::Alpn,
        Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsFailure::TlsVersion,
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => TlsFailure::Alpn,
        Error::AlertReceived(alert) => TlsFailure::of_alert(*alert),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => TlsFailure::NotTls,
        other => TlsFailure::Protocol(other.clone()),
    }
}

impl TlsFailure {
    /// What the peer means by an alert that ends a handshake.
    pub(crate) fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRevoked => Self::OwnRevoked,
            other => Self::PeerAlert(other),
        }
    }
}

fn of_certificate(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::UnknownIssuer => TlsFailure::UnknownCa,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::ExpiredCertificate,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFailure::CertificateNotYetValid
        }
        CertificateError::Revoked => TlsFailure::Revoked,
        CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<IdentityError>() {
            Some(identity) => identity.clone().into(),
            None => bad(error),
        },
        _ => bad(error),
    }
}

fn bad(error: &CertificateError) -> TlsFailure {
    TlsFailure::BadCertificate(Error::InvalidCertificate(error.clone()))
}

/// The ways in which rustls finds that no version is common. We offer 1.3 alone.
fn is_version(incompatible: &PeerIncompatible) -> bool {
    matches!(
        incompatible,
        PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
    )
}

impl From<IdentityError> for TlsFailure {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::NotALeaf(NotALeaf::NotOneSpiffeId { uris }) => Self::NotOneSpiffeId { uris },
            IdentityError::NotALeaf(why) => Self::NotALeaf(why),
            IdentityError::OtherTrustDomain(trust_domain) => Self::OtherTrustDomain(trust_domain),
            IdentityError::Unexpected(found) => Self::PeerIdentity { found },
            unfit @ (IdentityError::NotAnAuthority(_) | IdentityError::AuthorityOfAnother(_)) => {
                Self::BadCertificate(unfit.into())
            }
        }
    }
}
