//! One direction, from its first byte to its end.

use std::{
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};

use bytes::{Buf, Bytes, BytesMut};
use telemetry::{ByteCounters, End};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::tcp::{ReadHalf, WriteHalf},
};
use tunnel::{StreamError, TunnelReceiver, TunnelSender};

use super::{
    Broken,
    chunk::{ChunkSize, queueable},
    splice::Source,
};
use crate::pipes::Pipes;

/// Waits for an abort of the connection. Boxed: few connections are half-closed for long, and all would have room for it.
pub(super) type Watch<'a> = Pin<Box<dyn Future<Output = Broken> + Send + 'a>>;

/// Which way bytes go, and where they are counted: once for each pod that reports them.
pub(super) struct Direction<'a> {
    pub(super) from: End,
    pub(super) counters: &'a [Arc<ByteCounters>],
}

impl Direction<'_> {
    pub(super) fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        for counters in self.counters {
            match self.from {
                End::Source => counters.add_to_destination(bytes),
                End::Destination => counters.add_to_source(bytes),
            }
        }
    }

    fn read_failed(&self, error: io::Error) -> Broken {
        Broken::tcp(self.from, error)
    }

    pub(super) fn write_failed(&self, error: io::Error) -> Broken {
        Broken::tcp(self.from.opposite(), error)
    }
}

/// Once it has ended, gives a watch for an abort of either end. `receiving` is what the other direction is doing; it
/// runs in the same task and is polled first, so what it says is true whenever this one is polled.
pub(super) async fn tcp_to_tunnel<'a>(
    from: ReadHalf<'a>,
    to: &'a mut TunnelSender,
    direction: &'a Direction<'_>,
    receiving: &'a AtomicBool,
) -> Result<Watch<'a>, Broken> {
    let stream_failed = |error| Broken::stream(direction.from.opposite(), error);
    let mut size = ChunkSize::new();
    loop {
        // No buffer is held while there is nothing to read.
        tokio::select! {
            ready = from.readable() => ready.map_err(|error| direction.read_failed(error))?,
            error = broken(to, receiving) => return Err(stream_failed(error)),
        }
        // What the stream has no room for stays with the kernel, which makes the application wait.
        let room = tokio::select! {
            biased;
            room = to.room(size.wanted()) => room.map_err(stream_failed)?,
            broken = aborted(&from, direction.from) => return Err(broken),
        };
        let mut buffer = size.buffer(room);
        let read = read(&from, &mut buffer).await.map_err(|error| direction.read_failed(error))?;
        let Some(read) = read else {
            to.give_up_room();
            continue;
        };
        if read == 0 {
            to.finish().map_err(stream_failed)?;
            return Ok(Box::pin(async move {
                tokio::select! {
                    broken = aborted(&from, direction.from) => broken,
                    error = broken(to, receiving) => stream_failed(error),
                }
            }));
        }
        size.learn(read, room);
        to.send(queueable(buffer)).await.map_err(stream_failed)?;
        direction.count(read);
    }
}

pub(super) async fn tunnel_to_tcp(
    from: &mut TunnelReceiver,
    mut to: WriteHalf<'_>,
    direction: &Direction<'_>,
    receiving: &AtomicBool,
) -> Result<Watch<'static>, Broken> {
    loop {
        receiving.store(true, Relaxed);
        let received = from.receive().await.map_err(|error| Broken::stream(direction.from, error))?;
        receiving.store(false, Relaxed);
        let Some(data) = received else { break };
        write(&mut to, data, direction).await?;
    }
    to.shutdown().await.map_err(|error| direction.write_failed(error))?;
    // From here the other direction watches the stream.
    Ok(Box::pin(pending()))
}

/// Once it has ended, gives a watch for an abort of its source.
pub(super) async fn tcp_to_tcp<'a>(
    from: ReadHalf<'a>,
    mut to: WriteHalf<'_>,
    direction: &Direction<'_>,
    pipes: &Arc<Pipes>,
) -> Result<Watch<'a>, Broken> {
    let mut source = Source::new(pipes);
    loop {
        from.readable().await.map_err(|error| direction.read_failed(error))?;
        let read = source.read(&from).await.map_err(|error| direction.read_failed(error))?;
        let Some(load) = read else { continue };
        if load.is_end() {
            to.shutdown().await.map_err(|error| direction.write_failed(error))?;
            let end = direction.from;
            return Ok(Box::pin(async move { aborted(&from, end).await }));
        }
        tokio::select! {
            biased;
            written = load.write(&mut to, direction) => written?,
            broken = aborted(&from, direction.from) => return Err(broken),
        }
    }
}

/// While the other direction receives, it learns of a reset itself, after the data that came before. While it does not
/// (the application is slow, or the peer has ended its side) nobody else would notice.
async fn broken(to: &mut TunnelSender, receiving: &AtomicBool) -> StreamError {
    let mut broken = pin!(to.broken());
    poll_fn(|cx| if receiving.load(Relaxed) { Poll::Pending } else { broken.as_mut().poll(cx) }).await
}

/// `None`: there was nothing after all, as always after a read that filled its buffer to the last byte. To wait here
/// would hold the buffer, and watch nothing, for as long as the connection is idle.
pub(super) async fn read(from: &ReadHalf<'_>, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
    // Trying takes no part in tokio's fairness by itself.
    tokio::task::consume_budget().await;
    match from.try_read_buf(buffer) {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn write(
    to: &mut WriteHalf<'_>,
    mut data: Bytes,
    direction: &Direction<'_>,
) -> Result<(), Broken> {
    while data.has_remaining() {
        let written = to.write_buf(&mut data).await.map_err(|error| direction.write_failed(error))?;
        direction.count(written);
    }
    Ok(())
}

/// Resolves when `half`'s connection is aborted, without reading from it. EPOLLERR comes with a pending socket error:
/// a RST, or a peer that no longer acknowledges.
async fn aborted(half: &ReadHalf<'_>, end: End) -> Broken {
    let error = match half.ready(Interest::ERROR).await {
        Ok(_) => half.as_ref().take_error().ok().flatten(),
        Err(error) => Some(error),
    };
    Broken::tcp(end, error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
}
