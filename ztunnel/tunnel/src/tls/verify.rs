//! Who may be at the other end: the chain to the mesh's roots first, by rustls, then the one SPIFFE id.
//!
//! X509-SVID specification, section 2: exactly one URI SAN, and no more than one. Istio's own proxy accepts
//! several; we do not.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{SpiffeId, identity::TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What is wrong with the identity in a certificate that is otherwise good.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("the certificate has {uris} URI names and needs one, a SPIFFE id")]
    NotOneSpiffeId { uris: usize },
    #[error("{0} is not the local trust domain")]
    OtherTrustDomain(TrustDomain),
    #[error("{0} is none of the identities expected")]
    Unexpected(SpiffeId),
}

/// Accepts clients of one trust domain.
#[derive(Debug)]
pub(super) struct TrustDomainClients {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) trust_domain: TrustDomain,
}

/// Accepts a server that proves one of the identities expected.
pub(super) struct ExpectedServer {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) expected: Box<[SpiffeId]>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// The one SPIFFE id of a certificate.
pub(super) fn identity_of(certificate: &CertificateDer<'_>) -> Result<SpiffeId, IdentityError> {
    identity_and_end(certificate).map(|(identity, _)| identity)
}

/// The one SPIFFE id of a certificate, and when the certificate ends.
pub(super) fn identity_and_end(
    certificate: &CertificateDer<'_>,
) -> Result<(SpiffeId, SystemTime), IdentityError> {
    let none = || IdentityError::NotOneSpiffeId { uris: 0 };
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| none())?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let names = certificate.subject_alternative_name().map_err(|_| none())?.ok_or_else(none)?;
    let uris: Vec<&str> = names.value.general_names.iter().filter_map(uri).collect();
    let [uri] = uris[..] else { return Err(IdentityError::NotOneSpiffeId { uris: uris.len() }) };
    let identity = uri.parse().map_err(|_| IdentityError::NotOneSpiffeId { uris: 1 })?;
    Ok((identity, SystemTime::UNIX_EPOCH + Duration::from_secs(end)))
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

impl TrustDomainClients {
    fn admit(&self, leaf: &CertificateDer<'_>) -> Result<(), IdentityError> {
        let client = identity_of(leaf)?;
        if *client.trust_domain() == self.trust_domain {
            Ok(())
        } else {
            Err(IdentityError::OtherTrustDomain(client.trust_domain().clone()))
        }
    }
}

impl ExpectedServer {
    fn admit(&self, leaf: &CertificateDer<'_>) -> Result<(), IdentityError> {
        let server = identity_of(leaf)?;
        if self.expected.contains(&server) { Ok(()) } else { Err(IdentityError::Unexpected(server)) }
    }
}

impl ClientCertVerifier for TrustDomainClients {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        self.admit(leaf)?;
        Ok(verified)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.admit(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// To the peer this is alert 46, certificate_unknown.
impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

impl fmt::Debug for ExpectedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectedServer").field("expected", &self.expected).finish_non_exhaustive()
    }
}
