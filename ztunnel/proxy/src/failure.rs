//! Why a connection did not come to stand.

use std::{io, net::SocketAddr};

use http::StatusCode;
use model::{Refusal, demand::Unlearned, names::NameError, refusal::RefusalKind};
use telemetry::{Outcome, ResponseFlags};
use tunnel::{DialError, Phase, StreamError};

#[cfg(test)]
mod tests;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0} leads back to where it came from")]
    Loop(SocketAddr),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Unlearned(#[from] Unlearned),
    #[error("connecting to {target}: {source}")]
    Connect { target: SocketAddr, source: io::Error },
    #[error("the application at {target}: {source}")]
    Application { target: SocketAddr, source: io::Error },
    /// A pod beside does not take it; the outcome is that of its side.
    #[error("the pod beside: {}", .outcome.reason())]
    Neighbour { status: StatusCode, outcome: Outcome },
    #[error("connections hold all the descriptors they may")]
    Crowded,
    #[error("the limit {0} is reached")]
    Limited(&'static str),
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
            Self::Dial(error) if is_crowded(error) => Self::Crowded.reason(),
            Self::Dial(error) => error.reason(),
            Self::Name(error) => error.reason(),
            Self::Unlearned(error) => error.reason(),
            Self::Connect { .. } => "connect",
            Self::Application { .. } => "application_connect",
            Self::Neighbour { outcome, .. } => outcome.reason(),
            Self::Crowded => "crowded",
            Self::Limited(limit) => limit,
            Self::Deadline => "connect_deadline",
            Self::Stream(error) => error.reason(),
            Self::Socket(_) => "socket",
        }
    }

    /// Whether it says something of the endpoint that was tried, so that another may do better. What is wrong with this
    /// pod or this daemon, or what the far side forbids, would be the same elsewhere.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal, Refusal::UnusableHostName(_)),
            Self::Dial(error) => is_of_peer(error),
            Self::Connect { source, .. } => is_of_network(source),
            // As if it had answered a CONNECT so.
            Self::Neighbour { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Name(_) | Self::Deadline => true,
            Self::Unlearned(_)
            | Self::Loop(_)
            | Self::Application { .. }
            | Self::Crowded
            | Self::Limited(_)
            | Self::Stream(_)
            | Self::Socket(_) => false,
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
            Self::Neighbour { outcome, .. } => return outcome,
            Self::Dial(DialError::Tls(_) | DialError::PeerIdentity { .. }) => ResponseFlags::TlsFailure,
            _ => ResponseFlags::Connect,
        };
        Outcome::Failed { flags, reason: self.reason(), error: self.to_string() }
    }
}

/// Before the answer to a CONNECT no byte of the application is sent, so each of these delivered nothing.
fn is_of_peer(error: &DialError) -> bool {
    match error {
        DialError::Connect(error) => is_of_network(error),
        DialError::Deadline(phase) => *phase != Phase::Svid,
        DialError::Refused(status) => *status == StatusCode::SERVICE_UNAVAILABLE,
        DialError::Tls(error) => !error.is_of_own_certificate(),
        DialError::PeerIdentity { .. } | DialError::Reset(_) | DialError::Http2(_) => true,
        DialError::Svid(_)
        | DialError::Certificate(_)
        | DialError::BadHeader
        | DialError::Draining
        | DialError::Retired
        | DialError::PoolFull
        | DialError::SourcePoolFull
        | DialError::Windows => false,
    }
}

/// A tunnel's own socket found no seat; see [`no_seat`].
fn is_crowded(error: &DialError) -> bool {
    matches!(error, DialError::Connect(error) if error.kind() == io::ErrorKind::QuotaExceeded)
}

pub(crate) fn no_seat() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, Failure::Crowded.to_string())
}

/// Not a lack of our own, such as of descriptors or ports.
fn is_of_network(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionRefused
            | ConnectionReset
            | ConnectionAborted
            | TimedOut
            | HostUnreachable
            | NetworkUnreachable
    )
}
