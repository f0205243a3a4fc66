//! One outbound connection: the task that moves it, and the opening of streams on it.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{Builder, Connection, SendRequest},
};
use http::Request;
use model::SpiffeId;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::{
    Dialed, Keeper, SessionEnd, TunnelSettings,
    error::{DialError, Phase, TlsFailure},
    flood::{Found, Watchful},
    headers,
    keepalive::{Beat, Keepalive},
    session::{ERROR_RESETS, HEADER_LIST},
    stream::TunnelStream,
    tls::{PeerAlert, Proof, Standing, Watched},
    window::{Budgets, FRAME, Gauge, SEND_BUFFER, Slot, Windows, base},
    wire::Wire,
};

/// What streams are opened with.
pub(crate) struct Live {
    requests: SendRequest<Bytes>,
    peer: SpiffeId,
    local: SocketAddr,
    alert: PeerAlert,
}

/// What moves the connection.
pub(crate) struct Driver {
    connection: Connection<Watchful<Watched<Wire>>, Bytes>,
    wire: Wire,
    keepalive: Option<Keepalive>,
    standing: Standing,
    windows: Windows,
    /// Streams that the peer allows at once.
    allowed: usize,
    idle: Idle,
    /// When the first of both ends' certificates expires.
    until: Instant,
    peer: SpiffeId,
    found: Found,
    /// What belongs to the connection's socket.
    held: Box<dyn Keeper>,
}

/// What the driver of a connection asks of the pool.
pub(super) trait Owner {
    /// Opens no more streams on it.
    fn forget(&self);
    /// The same, if none is open.
    fn forget_if_unused(&self);
    /// The same, if there is another for the next stream besides.
    fn forget_if_surplus(&self);
}

/// Why a stream was not opened.
pub(super) struct OpenError {
    pub(super) error: DialError,
    /// Nothing came of it at the peer: another connection may be tried.
    pub(super) unprocessed: bool,
    /// The connection is no good for further streams.
    pub(super) spent: bool,
}

/// Since when a connection has carried no stream.
struct Idle {
    since: Instant,
    opened: u32,
    timeout: Duration,
}

/// Speaks HTTP/2's preface over a TLS connection whose server has proven to be `peer`. Streams may be opened as long as
/// the proofs of both ends hold.
pub(crate) async fn start(
    stream: TlsStream<TcpStream>,
    (peer, standing, local): (Proof, Standing, SocketAddr),
    gauge: Arc<Gauge>,
    settings: &TunnelSettings,
    budgets: &Budgets,
) -> Result<(Live, Driver), h2::Error> {
    let alert = PeerAlert::default();
    let wire = Wire::new(stream.into_inner());
    let watched = Watched::new(wire.clone(), alert.clone());
    let stream = Watchful::of_server(watched, Arc::clone(&gauge), settings.frames);
    let found = stream.found();
    let (requests, mut connection) = wire.sending(builder(settings).handshake(stream)).await?;
    let keepalive = connection.ping_pong().map(|ping| Keepalive::new(ping, settings));
    let windows = Windows::new(settings.windows, settings.streams_per_connection, gauge, &budgets.growth);
    let idle = Idle { since: Instant::now(), opened: 0, timeout: settings.idle_timeout };
    let live = Live { requests, peer: peer.identity.clone(), local, alert };
    let allowed = connection.max_concurrent_send_streams();
    let (until, peer, held) = (peer.until, peer.identity, Box::new(()));
    let driver =
        Driver { connection, wire, keepalive, standing, windows, allowed, idle, until, peer, found, held };
    Ok((live, driver))
}

impl Live {
    pub(super) async fn open(
        &self,
        request: Request<()>,
        slot: Slot,
        deadline: Duration,
    ) -> Result<Dialed, OpenError> {
        let mut requests = self.requests.clone();
        poll_fn(|cx| requests.poll_ready(cx)).await.map_err(|error| self.failed(error))?;
        slot.turn().await;
        let (answer, outgoing) = requests.send_request(request, false).map_err(|error| self.failed(error))?;
        slot.took_turn();
        // Beyond what the peer allows, it refuses a stream, or h2 keeps it back until another has ended.
        let answer = tokio::select! {
            biased;
            answer = timeout(deadline, answer) => answer.map_err(|_| OpenError::unanswered())?,
            () = slot.is_too_many() => return Err(OpenError::elsewhere()),
        };
        let (head, incoming) = answer.map_err(|error| self.failed(error))?.into_parts();
        if !head.status.is_success() {
            return Err(OpenError::answered(DialError::Refused(head.status)));
        }
        Ok(Dialed {
            stream: TunnelStream::new(incoming, outgoing, slot),
            peer: self.peer.clone(),
            local: self.local,
            baggage: headers::baggage(&head.headers),
        })
    }

    fn failed(&self, error: h2::Error) -> OpenError {
        if let Some(alert) = self.alert.received() {
            return OpenError {
                spent: true,
                ..OpenError::answered(DialError::Tls(TlsFailure::of_alert(alert)))
            };
        }
        match error.reason() {
            Some(reason) if error.is_reset() => OpenError {
                error: DialError::Reset(reason),
                unprocessed: reason == Reason::REFUSED_STREAM,
                spent: false,
            },
            // No byte of the application is sent before the answer, so asking again elsewhere is safe.
            _ => OpenError { error: DialError::Http2(Arc::new(error)), unprocessed: true, spent: true },
        }
    }
}

impl OpenError {
    pub(super) fn answered(error: DialError) -> Self {
        Self { error, unprocessed: false, spent: false }
    }

    fn elsewhere() -> Self {
        let error = DialError::Reset(Reason::REFUSED_STREAM);
        Self { error, unprocessed: true, spent: false }
    }

    fn unanswered() -> Self {
        Self { spent: true, ..Self::answered(DialError::Deadline(Phase::Answer)) }
    }
}

impl Driver {
    /// Keeps this until the connection has ended.
    pub(crate) fn holding(mut self, held: Box<dyn Keeper>) -> Self {
        self.held = held;
        self
    }

    /// Until the connection ends. It does so by itself once no [`Live`] of it is left and its streams are done, so when
    /// it has been idle for long or a certificate has expired, the owner is asked to forget it.
    pub(super) async fn run(mut self: Box<Self>, owner: &impl Owner) {
        let end = poll_fn(|cx| self.poll(cx, owner)).await;
        tracing::debug!(reason = end.reason(), %end, "an outbound connection ended");
        if end.is_breach() {
            self.held.broken(&self.peer, &end);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, owner: &impl Owner) -> Poll<SessionEnd> {
        if self.standing.poll_revoked(cx).is_ready() {
            owner.forget();
            self.windows.gauge().revoke();
            return Poll::Ready(SessionEnd::Revoked);
        }
        while let Some(keepalive) = &mut self.keepalive
            && let Poll::Ready(beat) = keepalive.poll(cx)
        {
            if beat == Beat::Dead {
                return Poll::Ready(SessionEnd::Dead);
            }
            self.windows.tick(&mut self.connection);
            if self.idle.was_rest(self.windows.gauge()) {
                owner.forget_if_surplus();
            }
            if self.idle.is_over() {
                owner.forget_if_unused();
            }
            if Instant::now() >= self.until {
                owner.forget();
            }
        }
        self.windows.tune(&mut self.connection);
        let polled = Pin::new(&mut self.connection).poll(cx);
        self.wire.send(cx);
        self.heed_limit();
        polled.map(|ended| match ended {
            Ok(()) => SessionEnd::Done,
            Err(error) => SessionEnd::of(error, &self.found, self.windows.gauge().streams()),
        })
    }

    /// The pool does not ask h2 itself: h2's lock is held while it writes, and the pool's must not wait for that.
    fn heed_limit(&mut self) {
        let allowed = self.connection.max_concurrent_send_streams();
        if allowed != self.allowed {
            self.allowed = allowed;
            self.windows.gauge().allow(u32::try_from(allowed).unwrap_or(u32::MAX));
        }
    }
}

impl Idle {
    /// Whether no stream was opened since the last question, and none is open.
    fn was_rest(&mut self, gauge: &Gauge) -> bool {
        let opened = gauge.opened();
        let rest = gauge.streams() == 0 && opened == self.opened;
        if !rest {
            self.opened = opened;
            self.since = Instant::now();
        }
        rest
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.timeout
    }
}

fn builder(settings: &TunnelSettings) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(usize::try_from(settings.streams_per_connection).unwrap_or(usize::MAX))
        .initial_window_size(settings.windows.initial)
        .initial_connection_window_size(base(&settings.windows, settings.streams_per_connection))
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(ERROR_RESETS));
    builder
}
