//! What is read from one TCP connection and written to another: copied while it is little, by splice(2) once it is much,
//! so that the bytes of a busy connection stay in the kernel.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::Interest,
    net::tcp::{ReadHalf, WriteHalf},
    time::{Instant, timeout_at},
};
use tunnel::Reservation;

use super::{
    Broken,
    chunk::ChunkSize,
    pump::{Direction, read, write},
};
use crate::pipes::{CAPACITY, Lent, Pipes, read_past};

/// A reader may take so long for what a pipe holds; then it moves into memory, and others have the pipe. Thus no
/// number of stalled readers keeps all pipes while there is memory to be had.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) struct Source<'a> {
    size: ChunkSize,
    /// `None` once the kernel would not splice this connection.
    pipes: Option<&'a Arc<Pipes>>,
}

/// What was read and is to be written.
pub(super) enum Load {
    Copied(Bytes),
    Piped(Lent),
}

impl<'a> Source<'a> {
    pub(super) fn new(pipes: &'a Arc<Pipes>) -> Self {
        Self { size: ChunkSize::new(), pipes: Some(pipes) }
    }

    /// `None`: there was nothing after all. Nothing is held while nothing is there.
    pub(super) async fn read(&mut self, from: &ReadHalf<'_>) -> io::Result<Option<Load>> {
        if self.size.is_largest()
            && let Some(pipe) = self.pipes.and_then(Pipes::lend)
        {
            return self.splice(from, pipe).await;
        }
        let room = self.size.wanted();
        let mut buffer = self.size.buffer(room);
        let Some(length) = read(from, &mut buffer).await? else { return Ok(None) };
        self.size.learn(length, room);
        Ok(Some(Load::Copied(buffer.freeze())))
    }

    async fn splice(&mut self, from: &ReadHalf<'_>, mut pipe: Lent) -> io::Result<Option<Load>> {
        tokio::task::consume_budget().await;
        let mut past = Vec::new();
        // Both in one attempt: after the first that finds nothing, tokio would not make a second.
        let filled = from.as_ref().try_io(Interest::READABLE, || match pipe.fill(from.as_ref()) {
            Ok(0) => read_past(from.as_ref(), &mut past),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => read_past(from.as_ref(), &mut past),
            filled => filled,
        });
        match filled {
            Ok(length) if pipe.is_empty() => {
                if length > 0 {
                    self.pipes = None;
                }
                past.truncate(length);
                Ok(Some(Load::Copied(past.into())))
            }
            Ok(length) => {
                self.size.learn(length, CAPACITY);
                Ok(Some(Load::Piped(pipe)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if cannot_splice(&error) => {
                self.pipes = None;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Load {
    /// Nothing was read: the source has ended.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Copied(bytes) => bytes.is_empty(),
            Self::Piped(pipe) => pipe.is_empty(),
        }
    }

    pub(super) async fn write(self, to: &mut WriteHalf<'_>, direction: &Direction<'_>) -> Result<(), Broken> {
        match self {
            Self::Copied(bytes) => write(to, bytes, direction).await,
            Self::Piped(pipe) => match splice_out(pipe, to, direction).await? {
                Some(Spilled { bytes, _held }) => write(to, bytes, direction).await,
                None => Ok(()),
            },
        }
    }
}

/// What was in a pipe, in memory.
struct Spilled {
    bytes: Bytes,
    /// Its part of the daemon's budget.
    _held: Option<Reservation>,
}

/// Answers with what is left and must be written otherwise.
async fn splice_out(
    mut pipe: Lent,
    to: &WriteHalf<'_>,
    direction: &Direction<'_>,
) -> Result<Option<Spilled>, Broken> {
    let to = to.as_ref();
    let mut until = Instant::now() + PATIENCE;
    while !pipe.is_empty() {
        match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
            Ok(length) => direction.count(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match timeout_at(until, to.writable()).await {
                    Ok(ready) => ready.map_err(|error| direction.write_failed(error))?,
                    Err(_) => match pipe.room_to_spill() {
                        Some(room) => return spill(pipe, Some(room), direction),
                        // No memory may be had: then the reader goes on holding a pipe, of which there are few.
                        None => until = Instant::now() + PATIENCE,
                    },
                }
            }
            Err(error) if cannot_splice(&error) => {
                let room = pipe.room_to_spill();
                return spill(pipe, room, direction);
            }
            Err(error) => return Err(direction.write_failed(error)),
        }
    }
    Ok(None)
}

fn spill(
    pipe: Lent,
    held: Option<Reservation>,
    direction: &Direction<'_>,
) -> Result<Option<Spilled>, Broken> {
    let bytes = pipe.spill().map_err(|error| direction.write_failed(error))?;
    Ok(Some(Spilled { bytes, _held: held }))
}

/// Of what these sockets are, not of how they fare.
fn cannot_splice(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}
