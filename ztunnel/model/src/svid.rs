//! An SVID: the X.509 certificate and key by which a workload proves its identity, and where they come from.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::SpiffeId;

mod authority;
mod leaf;
mod trust;

pub use authority::{NotAnAuthority, authority_domain};
pub use leaf::{Leaf, NotALeaf};
pub use trust::{Trust, TrustBundle, TrustDomains};

/// One certificate of one identity, shared by all the pods of that identity on this node.
/// Renewal makes a new `Svid`; connections that stand keep the old one.
pub struct Svid {
    pub identity: SpiffeId,
    /// Leaf first, then intermediates; never the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8. Zeroed on drop.
    pub key: SvidKey,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Hexadecimal, as in certificate tools.
    pub serial: String,
}

/// A private key that never shows itself and is zeroed on drop.
pub struct SvidKey(PrivateKeyDer<'static>);

impl SvidKey {
    pub fn new(key: PrivateKeyDer<'static>) -> Self {
        Self(key)
    }

    /// For the one place that builds the TLS signer.
    pub fn expose(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }
}

impl Drop for SvidKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl zeroize::ZeroizeOnDrop for SvidKey {}

impl fmt::Debug for SvidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SvidKey(..)")
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Why there is no certificate for an identity now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SvidError {
    #[error("no certificate for {identity}: {cause}")]
    Unavailable { identity: SpiffeId, cause: Arc<str> },
    #[error("the certificate for {0} has expired and could not be renewed")]
    Expired(SpiffeId),
}

impl SvidError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "certificate_unavailable",
            Self::Expired(_) => "certificate_expired",
        }
    }
}

/// Where SVIDs and trust come from: an authority that signs requests, or a SPIFFE Workload API, which hands out both
/// ready-made.
pub trait SvidSource: Send + Sync + 'static {
    /// The current certificate of `identity`, obtained first if there is none yet.
    fn svid(&self, identity: &SpiffeId) -> impl Future<Output = Result<Arc<Svid>, SvidError>> + Send;

    /// Whom to believe from now on. The same `Arc` until it changes.
    fn trust(&self) -> Arc<Trust>;
}
