//! One tunnelled connection: a CONNECT stream in two halves, each of which ends on its own.
//!
//! END_STREAM is FIN and RST_STREAM is RST. A half that is dropped before its end resets the stream, so that nothing
//! cut short can pass for complete.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use parking_lot::Mutex;

use crate::{
    error::StreamError,
    window::{Meter, Part, Slot},
};

#[derive(Debug)]
pub struct TunnelStream {
    pub receiver: TunnelReceiver,
    pub sender: TunnelSender,
}

/// What the peer sends.
#[derive(Debug)]
pub struct TunnelReceiver {
    stream: RecvStream,
    shared: Arc<Shared>,
    meter: Meter,
    /// Given out, and not given back to the peer as window.
    unreleased: usize,
    /// In what all tunnels hold.
    part: Part,
    ended: bool,
}

/// What goes to the peer.
#[derive(Debug)]
pub struct TunnelSender {
    shared: Arc<Shared>,
    finished: bool,
}

/// RST_STREAM belongs to both halves. The lock is held for single calls, never while waiting.
#[derive(Debug)]
struct Shared {
    outgoing: Mutex<Outgoing>,
    slot: Slot,
}

#[derive(Debug)]
struct Outgoing {
    stream: SendStream<Bytes>,
    reset: bool,
}

impl TunnelStream {
    pub(crate) fn new(incoming: RecvStream, outgoing: SendStream<Bytes>, slot: Slot) -> Self {
        let outgoing = Mutex::new(Outgoing { stream: outgoing, reset: false });
        let part = slot.gauge().part();
        let shared = Arc::new(Shared { outgoing, slot });
        let sender = TunnelSender { shared: Arc::clone(&shared), finished: false };
        let receiver = TunnelReceiver {
            stream: incoming,
            shared,
            meter: Meter::new(),
            unreleased: 0,
            part,
            ended: false,
        };
        Self { receiver, sender }
    }
}

impl TunnelReceiver {
    /// The next bytes; `None` once the peer has ended its side. The bytes of the call before count as handed on, and
    /// the peer may send as many more. Nothing is lost if the future is dropped.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.release(self.unreleased);
        while !self.ended {
            match poll_fn(|cx| self.poll_data(cx)).await {
                // An empty frame does nothing but carry END_STREAM.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.unreleased += data.len();
                    self.part.set(self.stream.flow_control().used_capacity());
                    return Ok(Some(data));
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(self.shared.why(error.into()));
                }
                None => self.ended = true,
            }
        }
        Ok(None)
    }

    /// Says that `bytes` of what was received are handed on, before the next `receive` says so of the rest.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.unreleased);
        if bytes == 0 {
            return;
        }
        self.unreleased -= bytes;
        self.part.release(bytes);
        // Fails only for more than was received.
        let _ = self.stream.flow_control().release_capacity(bytes);
        self.meter.drained(self.shared.slot.gauge(), bytes);
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let data = self.stream.poll_data(cx);
        if data.is_pending() {
            self.meter.waits();
        }
        data
    }
}

impl TunnelSender {
    /// Waits until the peer's window has room, and yields how much of `wanted`. Who reads no more than this holds
    /// nothing that cannot be sent. What `send` does not use of it goes to the other streams.
    pub async fn room(&mut self, wanted: usize) -> Result<usize, StreamError> {
        let room = poll_fn(|cx| self.shared.outgoing.lock().poll_room(cx, wanted)).await;
        let room = room.map_err(|error| self.shared.why(error))?;
        Ok(room.min(wanted))
    }

    /// What `room` has set aside goes to the other streams: there is nothing to send after all.
    pub fn give_up_room(&mut self) {
        self.shared.outgoing.lock().stream.reserve_capacity(0);
    }

    /// Sends all of `data`, waiting for the peer's window. What does not fit in it stays with the caller's future.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        if self.finished {
            return Err(StreamError::Closed);
        }
        while !data.is_empty() {
            let room = self.room(data.len()).await?;
            let part = data.split_to(room);
            self.shared.send(part, false)?;
        }
        self.give_up_room();
        Ok(())
    }

    /// Ends this side (FIN). The other goes on.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        if self.finished {
            return Err(StreamError::Closed);
        }
        self.finished = true;
        self.shared.send(Bytes::new(), true)
    }

    /// Ends both sides at once (RST).
    pub fn reset(&mut self) {
        self.finished = true;
        self.shared.outgoing.lock().reset();
    }

    /// Waits until the peer or the connection ends the stream by force, and says how. For when there is nothing to
    /// send and nothing left to receive, and a reset would go unnoticed.
    pub async fn broken(&mut self) -> StreamError {
        let broken = poll_fn(|cx| self.shared.outgoing.lock().stream.poll_reset(cx)).await;
        self.shared.why(broken.map_or_else(Into::into, StreamError::Reset))
    }
}

impl Shared {
    fn send(&self, data: Bytes, end: bool) -> Result<(), StreamError> {
        let sent = self.outgoing.lock().send(data, end);
        sent.map_err(|error| self.why(error))
    }

    fn why(&self, error: StreamError) -> StreamError {
        self.slot.gauge().why(error)
    }
}

impl Outgoing {
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, StreamError>> {
        if self.reset {
            return Poll::Ready(Err(StreamError::Closed));
        }
        self.stream.reserve_capacity(wanted);
        loop {
            // `poll_capacity` tells of changes only, also of one to nothing.
            let room = self.stream.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(self.why_closed(cx))),
            }
        }
    }

    fn send(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.stream
            .send_data(data, end)
            .map_err(|_| self.why_closed(&mut Context::from_waker(std::task::Waker::noop())))
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> StreamError {
        match self.stream.poll_reset(cx) {
            _ if self.reset => StreamError::Closed,
            Poll::Ready(Ok(reason)) => StreamError::Reset(reason),
            Poll::Ready(Err(error)) => error.into(),
            Poll::Pending => StreamError::Closed,
        }
    }

    fn reset(&mut self) {
        self.reset = true;
        self.stream.send_reset(Reason::CANCEL);
    }
}

impl Drop for TunnelReceiver {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.outgoing.lock().reset();
        }
    }
}

impl Drop for TunnelSender {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.outgoing.lock().reset();
        }
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::Connection(error),
        }
    }
}
