//! How a tunnel ended, at either end of it, and whether that is the peer's fault.

use h2::Reason;

use crate::flood::{Flood, Found};

/// How a session, or an outbound connection, ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    #[error("the peer or a drain ended it and all its streams are done")]
    Done,
    #[error("the peer did not answer a PING")]
    Dead,
    #[error("a certificate that it stood on has been revoked")]
    Revoked,
    #[error("the connection was lost under its streams: {0}")]
    Lost(h2::Error),
    #[error("HTTP/2: {0}")]
    Http2(h2::Error),
    #[error(transparent)]
    Flood(Flood),
}

impl SessionEnd {
    /// A peer need not wait for our last words: without streams, nothing is lost with the connection.
    pub(crate) fn of(error: h2::Error, found: &Found, streams: u32) -> Self {
        if let Some(flood) = found.flood() {
            return Self::Flood(flood);
        }
        match error.is_io() {
            true if streams == 0 => Self::Done,
            true => Self::Lost(error),
            // What the peer complains of is not what it did.
            false if error.is_remote() => Self::Lost(error),
            false => Self::Http2(error),
        }
    }

    pub fn reason(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Dead => "keepalive",
            Self::Revoked => "certificate_revoked",
            Self::Lost(_) => "connection_lost",
            Self::Http2(error) => breach(error.reason()),
            Self::Flood(_) => "http2_flood",
        }
    }

    /// Whether it is to be told: a breach of HTTP/2 or of its limits, or a certificate that is no longer good.
    pub fn is_breach(&self) -> bool {
        matches!(self, Self::Http2(_) | Self::Flood(_) | Self::Revoked)
    }
}

/// What was breached, by the code that the peer is told.
fn breach(code: Option<Reason>) -> &'static str {
    match code {
        Some(Reason::ENHANCE_YOUR_CALM) => "http2_excess",
        Some(Reason::FLOW_CONTROL_ERROR) => "http2_flow_control",
        Some(Reason::FRAME_SIZE_ERROR) => "http2_frame_size",
        Some(Reason::COMPRESSION_ERROR) => "http2_compression",
        Some(Reason::PROTOCOL_ERROR) => "http2_protocol",
        _ => "http2",
    }
}
