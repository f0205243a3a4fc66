//! TLS over a socket, in few and large system calls: one tunnel's bytes on their way in and out.
//!
//! HTTP/2 flushes after every frame of data. Here that only encrypts: what all streams have to say in one turn of the
//! connection's task is written together when its driver calls [`Wire::send`], at the end of the turn. What comes in is
//! read 64 KiB at a time, into a buffer that belongs to the thread and is borrowed only while there is something in it:
//! TLS by itself reads 4 KiB, and would hold its own.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, BufRead, IoSlice, Write},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use parking_lot::Mutex;
use rustls::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

/// Read at once from the socket.
const READ: usize = 64 << 10;
/// Encrypted and not yet written, at most. Room for what a busy stream has ready, and its overhead.
const UNSENT: usize = 128 << 10;

thread_local! {
    /// What nobody of this thread reads into just now.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Clones are the same wire: HTTP/2 has one, its driver another. Both run in one task.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Mutex<Inner>>);

struct Inner {
    tcp: TcpStream,
    tls: Connection,
    inbox: Inbox,
    /// Why nothing can be written any more. HTTP/2 learns of it when it next writes.
    broken: Option<io::ErrorKind>,
    closing: bool,
}

/// Read from the socket and not yet decrypted.
#[derive(Default)]
struct Inbox {
    buffer: Option<BytesMut>,
    taken: usize,
}

/// The socket as TLS wants it.
struct Socket<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Wire {
    /// After the handshake.
    pub(crate) fn new((tcp, tls): (TcpStream, impl Into<Connection>)) -> Self {
        let mut tls = tls.into();
        tls.set_buffer_limit(Some(UNSENT));
        let inbox = Inbox::default();
        Self(Arc::new(Mutex::new(Inner { tcp, tls, inbox, broken: None, closing: false })))
    }

    /// What `step` has to say leaves whenever it waits.
    pub(crate) async fn sending<F: Future>(&self, step: F) -> F::Output {
        let mut step = pin!(step);
        poll_fn(|cx| {
            let polled = step.as_mut().poll(cx);
            self.send(cx);
            polled
        })
        .await
    }

    /// Writes what waits, as far as the socket takes it; `cx` is woken when it takes more.
    pub(crate) fn send(&self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.0.lock().poll_send(cx) {
            tracing::debug!(%error, "a tunnel cannot be written to");
            // So that HTTP/2 is asked again, and told.
            cx.waker().wake_by_ref();
        }
    }
}

impl Inner {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.broken {
            return Poll::Ready(Err(kind.into()));
        }
        while self.tls.wants_write() {
            let mut socket = Socket { tcp: &mut self.tcp, cx };
            let error = match self.tls.write_tls(&mut socket) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => error,
            };
            self.broken = Some(error.kind());
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if data.iter().all(|part| part.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        loop {
            if let Some(kind) = self.broken {
                return Poll::Ready(Err(kind.into()));
            }
            match self.tls.writer().write_vectored(data)? {
                0 => ready!(self.poll_send(cx))?,
                written => return Poll::Ready(Ok(written)),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut reader = self.tls.reader();
            match reader.fill_buf() {
                Ok(record) => {
                    let length = record.len().min(into.remaining());
                    into.put_slice(&record[..length]);
                    reader.consume(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(self.inbox.poll_fill(&mut self.tcp, cx))?;
            self.inbox.take(|bytes| self.tls.read_tls(bytes))?;
            if let Err(error) = self.tls.process_new_packets() {
                // The peer is told, if the socket takes it at once.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
    }
}

impl Inbox {
    /// Ready with nothing in it: the peer has ended.
    fn poll_fill(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_some() {
            return Poll::Ready(Ok(()));
        }
        let mut buffer = SPARE.take().unwrap_or_else(|| BytesMut::with_capacity(READ));
        let read = poll_read_buf(Pin::new(tcp), cx, &mut buffer);
        if matches!(read, Poll::Ready(Ok(1..))) {
            self.buffer = Some(buffer);
        } else {
            SPARE.set(Some(buffer));
        }
        read.map_ok(drop)
    }

    fn take(&mut self, taker: impl FnOnce(&mut &[u8]) -> io::Result<usize>) -> io::Result<()> {
        let bytes = self.buffer.as_deref().unwrap_or_default();
        self.taken += taker(&mut &bytes[self.taken..])?;
        if self.taken == bytes.len()
            && let Some(mut buffer) = self.buffer.take()
        {
            self.taken = 0;
            buffer.clear();
            SPARE.set(Some(buffer));
        }
        Ok(())
    }
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, data) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// That is the driver's; see [`Wire::send`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let broken = self.0.lock().broken;
        Poll::Ready(broken.map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if !std::mem::replace(&mut inner.closing, true) {
            inner.tls.send_close_notify();
        }
        ready!(inner.poll_send(cx))?;
        match ready!(Pin::new(&mut inner.tcp).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            closed => Poll::Ready(closed),
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}
