//! A small HTTP/1.1 server over hyper: bounded in connections, in time, in what it reads and in what it holds for those
//! who read slowly.
//!
//! Pages are made on threads that may block, one for each connection at most; the thread that carries the conversation
//! is that of files, certificates and enrolment, and must not wait for them.

use std::{convert::Infallible, io, io::Write, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    Answer,
    answer::{Body, Writer},
    request::Request,
    seats::{Rules, Seat, Seats},
};
use crate::private_socket::PrivateSocket;

/// After a failure of accept(2), such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Written at once, and how many of them may wait for their reader.
const CHUNK: usize = 64 << 10;
const WAITING_CHUNKS: usize = 2;

/// Answers requests. Called on a thread that may block.
pub(super) trait Pages: Send + Sync + 'static {
    fn answer(&self, request: &Request) -> Answer;
}

impl<F: Fn(&Request) -> Answer + Send + Sync + 'static> Pages for F {
    fn answer(&self, request: &Request) -> Answer {
        self(request)
    }
}

/// Where clients come in.
pub(super) struct Door {
    seats: Arc<Seats>,
    rules: Rules,
}

impl Door {
    pub(super) fn new(rules: Rules) -> Self {
        Self { seats: Seats::new(rules), rules }
    }

    /// Waits for a place, and holds it until the conversation is over. Who has too many already is turned away.
    pub(super) async fn welcome<S>(&self, stream: S, source: Option<IpAddr>, pages: &Arc<impl Pages>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(seat) = self.seats.seat(source).await.map(Arc::new) else { return };
        let (rules, conversation) =
            (self.rules, converse(stream, Arc::clone(pages), self.rules, Arc::clone(&seat)));
        tokio::spawn(async move {
            // A client that breaks off or stalls is nobody's error.
            tokio::select! {
                _ = timeout(rules.whole, conversation) => {}
                () = seat.needed() => {}
            }
        });
    }
}

async fn accept_failed(error: io::Error) {
    tracing::warn!(%error, "an endpoint cannot accept");
    sleep(ACCEPT_PAUSE).await;
}

type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

async fn converse<S>(stream: S, pages: Arc<impl Pages>, rules: Rules, seat: Arc<Seat>) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        seat.asked();
        let asked = Request::new(request.method(), request.uri(), request.headers(), rules.trusted);
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(respond(pages, asked).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(rules.head)
        .keep_alive(!rules.once)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn respond(pages: Arc<impl Pages>, request: Request) -> Response<Outgoing> {
    let answer = spawn_blocking(move || pages.answer(&request)).await.unwrap_or_else(|_| {
        Answer::text(hyper::StatusCode::INTERNAL_SERVER_ERROR, "this page failed; the log says why\n")
    });
    let Answer { status, content_type, total, body } = answer;
    let mut response = Response::new(match body {
        Body::Whole(whole) => Full::new(whole).map_err(|never| match never {}).boxed_unsync(),
        Body::Written(write) => written(write),
    });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(total) = total {
        response.headers_mut().insert("x-total-count", total.into());
    }
    response
}

/// The writer waits whenever the reader does, and ends when the reader is gone.
fn written(write: Writer) -> Outgoing {
    let (sender, mut receiver) = mpsc::channel(WAITING_CHUNKS);
    spawn_blocking(move || {
        let mut chunks = Chunks { sender, buffer: Vec::with_capacity(CHUNK) };
        let result = write(&mut chunks).and_then(|()| chunks.flush());
        if let Err(error) = result {
            // The body then ends without its end, so that nobody takes it for whole.
            let _ = chunks.sender.blocking_send(Err(error));
        }
    });
    let frames = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
    StreamBody::new(frames.map(|chunk: io::Result<Bytes>| chunk.map(Frame::data))).boxed_unsync()
}

struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)).into();
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Serves whoever connects, forever.
pub(super) async fn serve_tcp(listener: tokio::net::TcpListener, door: Door, pages: Arc<impl Pages>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => door.welcome(stream, Some(peer.ip().to_canonical()), &pages).await,
            Err(error) => accept_failed(error).await,
        }
    }
}

/// The same, for whoever the socket lets in.
pub(super) async fn serve_unix(mut socket: PrivateSocket, door: Door, pages: Arc<impl Pages>) {
    loop {
        door.welcome(socket.accept().await, None, &pages).await;
    }
}
