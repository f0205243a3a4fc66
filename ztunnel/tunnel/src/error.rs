//! Why a tunnel did not come to be, or ended. Each error has one machine-readable `reason`.

use std::{fmt, io, sync::Arc};

use http::StatusCode;
use model::{SpiffeId, SvidError, identity::TrustDomain, svid::NotALeaf};
use rustls::AlertDescription;

/// The step of making a tunnel that a deadline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Svid,
    Connect,
    Tls,
    Preface,
    Answer,
}

/// What went wrong in the TLS handshake.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsFailure {
    #[error("the peer sent no certificate")]
    NoClientCertificate,
    #[error("the peer's certificate does not chain to the mesh's roots")]
    UnknownCa,
    #[error("the peer's certificate has expired")]
    ExpiredCertificate,
    #[error("the peer's certificate is not valid yet")]
    CertificateNotYetValid,
    #[error("the peer's certificate, or that of an issuer of it, is revoked")]
    Revoked,
    /// As our lists say, or the peer by its alert.
    #[error("our own certificate, or that of an issuer of it, is revoked")]
    OwnRevoked,
    #[error("the peer is of trust domain {0}, for which there is no bundle")]
    OtherTrustDomain(TrustDomain),
    #[error("the peer's certificate must have exactly one URI name, a SPIFFE id; it has {uris} URI names")]
    NotOneSpiffeId { uris: usize },
    #[error("the peer's certificate is no X.509-SVID of a workload: {0}")]
    NotALeaf(NotALeaf),
    #[error("the peer proved {found}, which is none of the identities expected")]
    PeerIdentity { found: SpiffeId },
    #[error("the peer's certificate or signature is bad: {0}")]
    BadCertificate(rustls::Error),
    #[error("the peer does not speak TLS 1.3")]
    TlsVersion,
    #[error("the peer does not offer HTTP/2 by ALPN")]
    Alpn,
    #[error("what the peer speaks is not TLS")]
    NotTls,
    #[error("the peer ended the handshake with alert {0:?}")]
    PeerAlert(AlertDescription),
    #[error("the peer closed the connection in the handshake")]
    Closed,
    #[error("in the handshake: {0}")]
    Io(Arc<io::Error>),
    #[error("TLS: {0}")]
    Protocol(rustls::Error),
}

impl TlsFailure {
    /// Whether every peer would say the same: it is our certificate that is wrong, not this peer.
    pub fn is_of_own_certificate(&self) -> bool {
        use AlertDescription::{BadCertificate, CertificateExpired, CertificateRevoked};
        match self {
            Self::OwnRevoked => true,
            Self::PeerAlert(alert) => {
                matches!(*alert, BadCertificate | CertificateExpired | CertificateRevoked)
            }
            _ => false,
        }
    }
}

/// Why an accepted connection did not become a [`crate::Session`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum TerminateError {
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error("the local certificate cannot be used: {0}")]
    Certificate(rustls::Error),
    #[error(transparent)]
    Tls(#[from] TlsFailure),
    #[error("{0} took too long")]
    Deadline(Phase),
    #[error("HTTP/2: {0}")]
    Http2(Arc<h2::Error>),
}

/// Why a dial gave no stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error("the local certificate cannot be used: {0}")]
    Certificate(rustls::Error),
    #[error("connecting to the peer: {0}")]
    Connect(Arc<io::Error>),
    #[error("{0} took too long")]
    Deadline(Phase),
    #[error(transparent)]
    Tls(TlsFailure),
    #[error("the peer proved {found}, expected {expected:?}")]
    PeerIdentity { found: SpiffeId, expected: Vec<SpiffeId> },
    #[error("the peer answered {0}")]
    Refused(StatusCode),
    #[error("the peer reset the stream: {0}")]
    Reset(h2::Reason),
    #[error("HTTP/2: {0}")]
    Http2(Arc<h2::Error>),
    #[error("a header of the CONNECT has bytes that HTTP does not allow")]
    BadHeader,
    #[error("the daemon is draining")]
    Draining,
    #[error("the source workload is gone")]
    Retired,
    #[error("the daemon has as many tunnels as it may")]
    PoolFull,
    #[error("the source workload has as many tunnels as it may")]
    SourcePoolFull,
    #[error("the windows of open streams take all the memory they may")]
    Windows,
}

/// Why an open stream ended other than by the end of its data.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// RST_STREAM: the TCP connection behind it was reset, or its proxy gave up.
    #[error("the peer reset the stream: {0}")]
    Reset(h2::Reason),
    /// Our own side has already ended or reset it.
    #[error("the stream is already closed")]
    Closed,
    /// The connection under it was ended, as it stood on a certificate that has been revoked since.
    #[error("a certificate that the connection stood on has been revoked")]
    Revoked,
    /// The connection under it ended.
    #[error("the connection ended: {0}")]
    Connection(h2::Error),
}

impl From<Phase> for TerminateError {
    fn from(phase: Phase) -> Self {
        Self::Deadline(phase)
    }
}

impl From<Phase> for DialError {
    fn from(phase: Phase) -> Self {
        Self::Deadline(phase)
    }
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Svid => "svid",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Preface => "preface",
            Self::Answer => "answer",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Svid => "svid_deadline",
            Self::Connect => "connect_deadline",
            Self::Tls => "handshake_deadline",
            Self::Preface => "preface_deadline",
            Self::Answer => "answer_deadline",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Svid => "the local certificate",
            Self::Connect => "the TCP connection",
            Self::Tls => "the TLS handshake",
            Self::Preface => "the HTTP/2 preface",
            Self::Answer => "the answer to CONNECT",
        })
    }
}

impl TlsFailure {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoClientCertificate => "no_client_certificate",
            Self::UnknownCa => "unknown_ca",
            Self::ExpiredCertificate => "expired_certificate",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::Revoked | Self::OwnRevoked => "certificate_revoked",
            Self::OtherTrustDomain(_) => "other_trust_domain",
            Self::NotOneSpiffeId { .. } => "not_one_spiffe_id",
            Self::NotALeaf(_) => "bad_certificate",
            Self::PeerIdentity { .. } => "peer_identity",
            Self::BadCertificate(_) => "bad_certificate",
            Self::TlsVersion => "tls_version",
            Self::Alpn => "alpn",
            Self::NotTls => "not_tls",
            Self::PeerAlert(_) => "peer_alert",
            Self::Closed => "handshake_closed",
            Self::Io(_) => "handshake_io",
            Self::Protocol(_) => "tls_protocol",
        }
    }
}

impl TerminateError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Svid(_) => "no_certificate",
            Self::Certificate(_) => "unusable_certificate",
            Self::Tls(failure) => failure.reason(),
            Self::Deadline(phase) => phase.reason(),
            Self::Http2(_) => "http2",
        }
    }
}

impl DialError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Svid(_) => "no_certificate",
            Self::Certificate(_) => "unusable_certificate",
            Self::Connect(_) => "connect",
            Self::Deadline(phase) => phase.reason(),
            Self::Tls(failure) => failure.reason(),
            Self::PeerIdentity { .. } => "peer_identity",
            Self::Refused(_) => "refused_by_peer",
            Self::Reset(_) => "reset_by_peer",
            Self::Http2(_) => "http2",
            Self::BadHeader => "bad_header",
            Self::Draining => "draining",
            Self::Retired => "source_gone",
            Self::PoolFull => "pool_full",
            Self::SourcePoolFull => "source_pool_full",
            Self::Windows => "window_budget",
        }
    }
}

impl StreamError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Reset(_) => "stream_reset",
            Self::Closed => "stream_closed",
            Self::Revoked => "certificate_revoked",
            Self::Connection(_) => "connection_lost",
        }
    }
}
