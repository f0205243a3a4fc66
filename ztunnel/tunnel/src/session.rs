//! The server's side of one HBONE connection: the CONNECT requests that a proven peer sends over it.
//!
//! The connection moves only while [`Session::next`] is awaited, and ends when the session is dropped. Once the peer's
//! certificate has expired it is drained.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Method, StatusCode};
use model::SpiffeId;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::server::TlsStream;

use crate::{
    Rejection, SessionEnd, TlsFacts, TunnelSettings,
    error::StreamError,
    flood::{Found, Watchful},
    headers::{ConnectHeaders, refusal, success},
    keepalive::{Beat, Keepalive},
    rejection::Rejections,
    stream::TunnelStream,
    tls::{Proof, Standing},
    window::{Budgets, FRAME, Gauge, SEND_BUFFER, Slot, Windows, base},
    wire::Wire,
};

/// Room for a CONNECT's headers, as in RFC 9113 section 6.5.2.
pub(crate) const HEADER_LIST: u32 = 16 << 10;
/// Streams reset by the peer that we have not even seen; more end the connection (CVE-2023-44487).
const UNSEEN_RESETS: usize = 20;
/// Streams we reset for the peer's errors; more end the connection (CVE-2025-8671).
pub(crate) const ERROR_RESETS: usize = 100;

type Http2 = Connection<Watchful<Wire>, Bytes>;

/// A connection from a peer whose identity is proven.
pub struct Session {
    /// None once it is given up.
    connection: Option<Http2>,
    wire: Wire,
    peer: Proof,
    standing: Standing,
    tls: TlsFacts,
    keepalive: Option<Keepalive>,
    windows: Windows,
    streams: u32,
    budgets: Budgets,
    /// Of the workload that is spoken to.
    identity: SpiffeId,
    rejected: Rejections,
    found: Found,
    end: Option<SessionEnd>,
}

/// A peer's wish for a connection, to be accepted or refused. Dropped, it is reset.
#[derive(Debug)]
pub struct Request {
    authority: String,
    headers: ConnectHeaders,
    incoming: RecvStream,
    respond: SendResponse<Bytes>,
    slot: Slot,
}

impl Session {
    /// Speaks HTTP/2's preface.
    pub(crate) async fn start(
        stream: TlsStream<TcpStream>,
        (peer, standing): (Proof, Standing),
        settings: &TunnelSettings,
        (budgets, identity): (&Budgets, &SpiffeId),
    ) -> Result<Self, h2::Error> {
        let tls = TlsFacts::of(stream.get_ref().1);
        let streams = settings.inbound_streams;
        let wire = Wire::new(stream.into_inner());
        let stream = Watchful::of_client(wire.clone(), settings.frames);
        let found = stream.found();
        let mut connection: Http2 = wire.sending(builder(settings).handshake(stream)).await?;
        let keepalive = connection.ping_pong().map(|ping| Keepalive::new(ping, settings));
        let gauge = Arc::new(Gauge::new(settings.windows.initial, &budgets.load));
        let windows = Windows::new(settings.windows, streams, gauge, &budgets.growth);
        let connection = Some(connection);
        let (budgets, identity) = (budgets.clone(), identity.clone());
        Ok(Self {
            connection,
            wire,
            peer,
            standing,
            tls,
            keepalive,
            windows,
            streams,
            budgets,
            identity,
            rejected: Rejections::default(),
            found,
            end: None,
        })
    }

    /// Who the peer has proven to be.
    pub fn peer(&self) -> &SpiffeId {
        &self.peer.identity
    }

    pub fn tls(&self) -> TlsFacts {
        self.tls
    }

    /// The next CONNECT. `None`: the peer is done, or [`Session::end`] says what went wrong. What is not a proper
    /// CONNECT is answered here. Nothing is lost if the future is dropped, but the connection stands still meanwhile.
    pub async fn next(&mut self) -> Option<Request> {
        poll_fn(|cx| {
            let next = self.poll_next(cx);
            self.wire.send(cx);
            next
        })
        .await
    }

    /// Tells the peer to open no more streams here (GOAWAY). Those that are open go on; when they have ended, so does
    /// the session.
    pub fn drain(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.graceful_shutdown();
        }
    }

    /// The requests that were answered here, by why they were.
    pub fn rejected(&self) -> impl Iterator<Item = (Rejection, u64)> {
        self.rejected.iter()
    }

    /// How it ended, once `next` has said that it did.
    pub fn end(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.connection.is_some() && self.standing.poll_revoked(cx).is_ready() {
            return self.revoked(cx);
        }
        if let Some(dead) = self.beat(cx) {
            return self.ended(dead);
        }
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            self.windows.tune(connection);
            match ready!(connection.poll_accept(cx)) {
                None => return self.ended(SessionEnd::Done),
                Some(Err(error)) => {
                    let end = SessionEnd::of(error, &self.found, self.windows.gauge().streams());
                    return self.ended(end);
                }
                Some(Ok((request, respond))) => match self.admit(request, respond) {
                    Ok(request) => return Poll::Ready(Some(request)),
                    Err(rejection) => self.rejected.count(rejection),
                },
            }
        }
    }

    /// The streams end with it. The farewell is sent only if the socket takes it at once.
    fn revoked(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        self.windows.gauge().revoke();
        if let Some(connection) = &mut self.connection {
            connection.abrupt_shutdown(Reason::INADEQUATE_SECURITY);
            let _ = connection.poll_closed(cx);
        }
        self.ended(SessionEnd::Revoked)
    }

    /// What is due now and then.
    fn beat(&mut self, cx: &mut Context<'_>) -> Option<SessionEnd> {
        let (connection, keepalive) = (self.connection.as_mut()?, self.keepalive.as_mut()?);
        while let Poll::Ready(beat) = keepalive.poll(cx) {
            if beat == Beat::Dead {
                // The farewell is sent only if the socket takes it at once.
                connection.abrupt_shutdown(Reason::NO_ERROR);
                let _ = connection.poll_closed(cx);
                return Some(SessionEnd::Dead);
            }
            self.windows.tick(connection);
            // New streams need a new proof; the peer makes a new connection for them.
            if Instant::now() >= self.peer.until {
                connection.graceful_shutdown();
            }
        }
        None
    }

    fn ended(&mut self, how: SessionEnd) -> Poll<Option<Request>> {
        self.connection = None;
        self.end = Some(how);
        Poll::Ready(None)
    }

    fn admit(
        &self,
        request: http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<Request, Rejection> {
        let slot = self.place().inspect_err(|_| respond.send_reset(Reason::REFUSED_STREAM))?;
        let (head, incoming) = request.into_parts();
        // RFC 8441 is not offered, so nobody may use it.
        if head.extensions.get::<h2::ext::Protocol>().is_some() {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return Err(Rejection::NotAConnect);
        }
        let Some(authority) = head.uri.authority().filter(|_| head.method == Method::CONNECT) else {
            // Fails only if the stream is gone.
            let _ = respond.send_response(refusal(StatusCode::BAD_REQUEST), true);
            return Err(Rejection::NotAConnect);
        };
        let authority = authority.as_str().to_owned();
        Ok(Request { authority, headers: ConnectHeaders::of(&head.headers), incoming, respond, slot })
    }

    /// For one more stream.
    fn place(&self) -> Result<Slot, Rejection> {
        let window = self.budgets.stream(&self.identity).ok_or(Rejection::Windows)?;
        // Counts requests that the peer has reset but we still work on, which HTTP/2's own limit does not.
        let slot = self.windows.gauge().slot(self.streams).ok_or(Rejection::Streams)?;
        if slot.is_last_of(self.streams) {
            self.budgets.load.inbound_is_full();
        }
        // GOAWAY asks for this; a peer that does not heed it, or never answers the PING that completes it, is told.
        if Instant::now() >= self.peer.until {
            return Err(Rejection::Expired);
        }
        Ok(slot.holding(window))
    }
}

impl Request {
    /// What the peer wants to be connected to: `ip:port` or `host:port`, if it is honest.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn headers(&self) -> &ConnectHeaders {
        &self.headers
    }

    /// Opens the stream, telling the peer who we are by `baggage`.
    pub fn accept(mut self, baggage: &str) -> Result<TunnelStream, StreamError> {
        let answered = self.respond.send_response(success(baggage), false);
        let outgoing = answered.map_err(|error| self.slot.gauge().why(error.into()))?;
        Ok(TunnelStream::new(self.incoming, outgoing, self.slot))
    }

    /// Waits until the peer or the connection gives the request up, and says how: what is done for it may then stop.
    pub async fn broken(&mut self) -> StreamError {
        let broken = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        self.slot.gauge().why(broken.map_or_else(Into::into, StreamError::Reset))
    }

    /// The answer ends our side; if the peer's is open still, RST_STREAM(NO_ERROR) follows.
    pub fn refuse(mut self, status: StatusCode) {
        // Fails only if the stream is gone.
        let _ = self.respond.send_response(refusal(status), true);
    }
}

fn builder(settings: &TunnelSettings) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(settings.inbound_streams)
        .initial_window_size(settings.windows.initial)
        .initial_connection_window_size(base(&settings.windows, settings.inbound_streams))
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS));
    builder
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer.identity)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
