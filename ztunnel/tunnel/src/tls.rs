//! Mutual TLS 1.3 between proxies, with certificates that carry SPIFFE ids.
//!
//! Receives a local [`model::Svid`] and a TCP connection; hands on an encrypted stream whose far end has proven an
//! identity. Sessions are never resumed, so every connection proves its identities anew.

mod failure;
mod identities;
mod revocation;
mod roots;
mod verify;
mod watched;

use std::time::{Duration, SystemTime};

use model::SpiffeId;
use rustls::CommonState;
use tokio::time::Instant;

use crate::error::TlsFailure;

pub(crate) use failure::classify;
pub(crate) use identities::{Identities, Identity};
pub(crate) use revocation::{Revocation, Standing};
pub(crate) use watched::{PeerAlert, Watched};

/// HTTP/2 over TLS, RFC 9113 section 3.2.
const ALPN: &[u8] = b"h2";

/// Longer than any connection lives, and near enough for every clock.
const FAR: Duration = Duration::from_secs(3600 * 24 * 365);

/// What was agreed on in a handshake, in the names of the IANA registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher_suite: &'static str,
    pub key_exchange: &'static str,
}

impl TlsFacts {
    pub(crate) fn of(connection: &CommonState) -> Self {
        let version = connection.protocol_version().and_then(|version| version.as_str());
        let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let group = connection.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
        Self {
            version: version.unwrap_or("unknown"),
            cipher_suite: suite.unwrap_or("unknown"),
            key_exchange: group.unwrap_or("unknown"),
        }
    }
}

/// What a finished handshake proves, and for how long: a proof is no better than its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) identity: SpiffeId,
    pub(crate) until: Instant,
}

/// Who the far end of a finished handshake is.
pub(crate) fn peer(connection: &CommonState) -> Result<Proof, TlsFailure> {
    let leaf =
        connection.peer_certificates().and_then(<[_]>::first).ok_or(TlsFailure::NoClientCertificate)?;
    let (identity, end) = verify::identity_and_end(leaf)?;
    Ok(Proof { identity, until: instant(end) })
}

/// That point in time by the clock that timers go by.
pub(crate) fn instant(time: SystemTime) -> Instant {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now() + left.min(FAR)
}

/// A server that answers no ALPN is not one that speaks HTTP/2.
pub(crate) fn require_http2(connection: &CommonState) -> Result<(), TlsFailure> {
    if connection.alpn_protocol() == Some(ALPN) { Ok(()) } else { Err(TlsFailure::Alpn) }
}
