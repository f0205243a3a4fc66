//! Why a connection did not come to stand.

use std::{io, net::SocketAddr};

use http::StatusCode;
use model::{Refusal, refusal::RefusalKind};
use telemetry::{Outcome, ResponseFlags};
use tunnel::{DialError, StreamError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0} leads back to where it came from")]
    Loop(SocketAddr),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("connecting to {target}: {source}")]
    Connect { target: SocketAddr, source: io::Error },
    #[error("the application at {target}: {source}")]
    Application { target: SocketAddr, source: io::Error },
    #[error("connections hold all the descriptors they may")]
    Crowded,
    #[error("it took longer than the deadline for connecting")]
    Deadline,
    #[error("the tunnel ended before the connection stood: {0}")]
    Stream(#[from] StreamError),
    #[error("the accepted socket: {0}")]
    Socket(#[from] io::Error),
}

impl Failure {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Loop(_) => "loop",
            Self::Dial(error) => error.reason(),
            Self::Connect { .. } => "connect",
            Self::Application { .. } => "application_connect",
            Self::Crowded => "crowded",
            Self::Deadline => "connect_deadline",
            Self::Stream(error) => error.reason(),
            Self::Socket(_) => "socket",
        }
    }

    /// What a CONNECT is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refusal) => match refusal.kind() {
                RefusalKind::Malformed => StatusCode::BAD_REQUEST,
                RefusalKind::Denied => StatusCode::UNAUTHORIZED,
                RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            },
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        let flags = match self {
            Self::Refused(refusal) => return Outcome::Refused(refusal),
            Self::Dial(DialError::Tls(_) | DialError::PeerIdentity { .. }) => ResponseFlags::TlsFailure,
            _ => ResponseFlags::Connect,
        };
        Outcome::Failed { flags, reason: self.reason(), error: self.to_string() }
    }
}
