//! How a connection that stood ended otherwise than by the end of its data.

use std::io;

use telemetry::{End, Outcome, ResponseFlags};
use tunnel::StreamError;

#[derive(Debug)]
pub(super) struct Broken {
    end: End,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Tcp(io::Error),
    #[error(transparent)]
    Stream(StreamError),
}

impl Broken {
    pub(super) fn tcp(end: End, error: io::Error) -> Self {
        Self { end, cause: Cause::Tcp(error) }
    }

    pub(super) fn stream(end: End, error: StreamError) -> Self {
        Self { end, cause: Cause::Stream(error) }
    }

    pub(super) fn is_of_socket(&self) -> bool {
        matches!(self.cause, Cause::Tcp(_))
    }

    pub(super) fn into_outcome(self) -> Outcome {
        if self.is_reset() {
            return Outcome::Reset { by: self.end };
        }
        let (reason, error) = (self.reason(), self.cause.to_string());
        Outcome::Failed { flags: ResponseFlags::Connect, reason, error }
    }

    /// A write to an end that is gone fails with EPIPE if its RST came before, with ECONNRESET if in between.
    fn is_reset(&self) -> bool {
        match &self.cause {
            Cause::Tcp(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
            ),
            Cause::Stream(StreamError::Reset(_)) => true,
            Cause::Stream(_) => false,
        }
    }

    fn reason(&self) -> &'static str {
        match &self.cause {
            Cause::Tcp(error) if error.kind() == io::ErrorKind::TimedOut => "timed_out",
            Cause::Tcp(_) => "socket",
            Cause::Stream(error) => error.reason(),
        }
    }
}
