//! Who signs certificates.

use model::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

/// Signs requests for certificates: the embedded CA, Istio's CA.
pub trait CertificateAuthority: Send + Sync + 'static {
    /// A certificate for `identity` over the key of `request`, whose only name is that identity.
    fn sign(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'static>,
    ) -> impl Future<Output = Result<Issued, AuthorityError>> + Send;
}

/// What an authority hands out.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates; never the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the identity's trust domain: what peers will be held against.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the authority did not answer in time")]
    Deadline,
    #[error("the authority cannot be reached: {0}")]
    Unreachable(String),
    #[error(
        "the authority does not accept our token: {0}; cure: a token for its audience in the token file, that has not \
         expired"
    )]
    Unauthenticated(String),
    #[error("the authority refused: {0}")]
    Refused(String),
    #[error("the authority is of trust domain {0}")]
    OtherTrustDomain(TrustDomain),
    #[error("the root certificate has expired")]
    RootExpired,
    #[error("the certificate that the authority issued is revoked already, or that of an issuer of it")]
    Revoked,
    #[error("the request could not be made: {0}")]
    Request(String),
    #[error("the authority's answer is no certificate for what was asked: {0}")]
    Answer(String),
}

impl AuthorityError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Unreachable(_) => "unreachable",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Refused(_) => "refused",
            Self::OtherTrustDomain(_) => "other_trust_domain",
            Self::RootExpired => "root_expired",
            Self::Revoked => "certificate_revoked",
            Self::Request(_) => "bad_request",
            Self::Answer(_) => "bad_answer",
        }
    }
}
