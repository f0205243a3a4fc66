//! In TLS 1.3 a client learns only after its handshake that the server refused its certificate: the alert comes as a
//! read error, which HTTP/2 reduces to text. This stream keeps the alert.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The alert that ended a connection, if one did.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerAlert(Arc<OnceLock<AlertDescription>>);

#[derive(Debug)]
pub(crate) struct Watched<T> {
    stream: T,
    alert: PeerAlert,
}

impl PeerAlert {
    pub(crate) fn received(&self) -> Option<AlertDescription> {
        self.0.get().copied()
    }

    fn look_at(&self, error: &io::Error) {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        if let Some(Error::AlertReceived(alert)) = inner {
            self.0.get_or_init(|| *alert);
        }
    }
}

impl<T> Watched<T> {
    pub(crate) fn new(stream: T, alert: PeerAlert) -> Self {
        Self { stream, alert }
    }
}

impl<T: AsyncRead + Unpin> Watched<T> {
    /// A peer that has hung up lets writing fail, and its alert may lie unread before that: whether reading or writing
    /// meets with the end first is chance.
    fn look_for_last_words(&mut self, cx: &mut Context<'_>) {
        let mut scratch = [0; 1];
        if let Poll::Ready(Err(error)) =
            Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut scratch))
        {
            self.alert.look_at(&error);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Err(error) = &result {
            self.alert.look_at(error);
        }
        Poll::Ready(result)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, data));
        if result.is_err() {
            self.look_for_last_words(cx);
        }
        Poll::Ready(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, data));
        if result.is_err() {
            self.look_for_last_words(cx);
        }
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        if result.is_err() {
            self.look_for_last_words(cx);
        }
        Poll::Ready(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
