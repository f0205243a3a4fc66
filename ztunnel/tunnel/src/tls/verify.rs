//! Who may be at the other end. The certificate says of which trust domain it is, and it must chain to that domain's
//! own bundle: whatever roots are believed otherwise, none vouches for another's workloads. Then nothing of the chain may be
//! revoked.
//!
//! X509-SVID specification, section 2: exactly one URI SAN, and no more than one. Istio's own proxy accepts
//! several; we do not.

use std::{sync::Arc, time::SystemTime};

use model::{
    SpiffeId,
    identity::TrustDomain,
    svid::{Leaf, NotALeaf, NotAnAuthority, authority_domain},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::verify_tls13_signature,
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::roots::Roots;

/// What is wrong with the identity in a certificate that is otherwise good.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error(transparent)]
    NotALeaf(#[from] NotALeaf),
    #[error("there is no bundle for trust domain {0}")]
    OtherTrustDomain(TrustDomain),
    #[error("an intermediate certificate: {0}")]
    NotAnAuthority(#[from] NotAnAuthority),
    #[error("an intermediate certificate is of trust domain {0}, the leaf of another")]
    AuthorityOfAnother(TrustDomain),
    #[error("{0} is none of the identities expected")]
    Unexpected(SpiffeId),
}

/// Accepts clients of the trust domains for which there is a bundle.
#[derive(Debug)]
pub(super) struct TrustDomainClients {
    pub(super) roots: Arc<Roots>,
}

/// Accepts a server that proves one of the identities expected.
#[derive(Debug)]
pub(super) struct ExpectedServer {
    pub(super) roots: Arc<Roots>,
    pub(super) expected: Box<[SpiffeId]>,
}

/// The one SPIFFE id of a certificate, and when the certificate ends.
pub(super) fn identity_and_end(
    certificate: &CertificateDer<'_>,
) -> Result<(SpiffeId, SystemTime), IdentityError> {
    let leaf = Leaf::parse(certificate)?;
    Ok((leaf.identity, leaf.not_after))
}

/// What WebPKI does not ask of those between leaf and root: X509-SVID specification, sections 3.2 and 4.3.
fn refuse_unfit(
    roots: &Roots,
    domain: &TrustDomain,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), IdentityError> {
    for intermediate in intermediates {
        if let Some(named) = authority_domain(intermediate)?
            && !roots.are_one(&named, domain)
        {
            return Err(IdentityError::AuthorityOfAnother(named));
        }
    }
    Ok(())
}

impl ClientCertVerifier for TrustDomainClients {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (client, _) = identity_and_end(leaf)?;
        let Some(bundle) = self.roots.of(client.trust_domain()) else {
            return Err(IdentityError::OtherTrustDomain(client.trust_domain().clone()).into());
        };
        let verified = bundle.clients.verify_client_cert(leaf, intermediates, now)?;
        refuse_unfit(&self.roots, client.trust_domain(), intermediates)?;
        self.roots.refuse_revoked(client.trust_domain(), leaf, intermediates)?;
        Ok(verified)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.roots.hints()
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
        verify_tls13_signature(message, certificate, signature, self.roots.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.roots.algorithms().supported_schemes()
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
        let (server, _) = identity_and_end(leaf)?;
        let Some(bundle) = self.roots.of(server.trust_domain()) else {
            return Err(IdentityError::Unexpected(server).into());
        };
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.roots.algorithms().all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &bundle.servers, intermediates, now, algorithms)?;
        refuse_unfit(&self.roots, server.trust_domain(), intermediates)?;
        self.roots.refuse_revoked(server.trust_domain(), leaf, intermediates)?;
        if !self.roots.are_among(&self.expected, &server) {
            return Err(IdentityError::Unexpected(server).into());
        }
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
        verify_tls13_signature(message, certificate, signature, self.roots.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.roots.algorithms().supported_schemes()
    }
}

/// To the peer this is alert 46, certificate_unknown.
impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}
