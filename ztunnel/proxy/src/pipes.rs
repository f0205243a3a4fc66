//! The pipes that splice(2) moves bytes through, for all connections of the daemon. Descriptors are scarce: a connection
//! has a pipe only while it holds data of its, and of those that nobody has only a few stay open.

use std::{io, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::{pipe2, read},
};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tunnel::{Budget, Reservation};

/// The most that one pipe holds, in bytes.
pub(crate) const CAPACITY: usize = 256 << 10;
/// Kept open for the next: as many as are likely to be wanted again at once.
const IDLE: usize = 16;

/// How much is read at once where splice(2) stops.
const READ_PAST: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Pipes {
    most: usize,
    /// What is taken out of pipes into memory is taken from here.
    budget: Budget,
    stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    idle: Vec<Arc<Pipe>>,
    lent: usize,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// A pipe and what it holds. It goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    pipes: Arc<Pipes>,
    pipe: Arc<Pipe>,
    held: usize,
}

impl Pipes {
    /// At most so many hold data at once.
    pub(crate) fn new(most: usize, budget: Budget) -> Arc<Self> {
        Arc::new(Self { most, budget, stock: Mutex::default() })
    }

    /// An empty one; `None` if all are lent, or the daemon is out of descriptors.
    pub(crate) fn lend(self: &Arc<Self>) -> Option<Lent> {
        let idle = {
            let mut stock = self.stock.lock();
            if stock.lent >= self.most {
                return None;
            }
            stock.lent += 1;
            stock.idle.pop()
        };
        let Some(pipe) = idle.or_else(|| Pipe::new().ok().map(Arc::new)) else {
            self.stock.lock().lent -= 1;
            return None;
        };
        Some(Lent { pipes: Arc::clone(self), pipe, held: 0 })
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A smaller one does as well.
        let _ = i32::try_from(CAPACITY).map(|bytes| fcntl(&writer, FcntlArg::F_SETPIPE_SZ(bytes)));
        Ok(Self { reader, writer })
    }
}

impl Lent {
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// From a socket; 0 is the end of its data. Only into an empty pipe: of a full one the kernel would say the same
    /// as of a socket without data.
    pub(crate) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        debug_assert!(self.is_empty());
        let filled = splice(from, None, &self.pipe.writer, None, CAPACITY, SpliceFFlags::SPLICE_F_NONBLOCK)?;
        self.held = filled;
        Ok(filled)
    }

    /// To a socket, as much as it takes. Of a pipe that is not empty, `WouldBlock` says that the socket takes nothing.
    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        match splice(&self.pipe.reader, None, to, None, self.held, flags)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            drained => {
                self.held = self.held.saturating_sub(drained);
                Ok(drained)
            }
        }
    }

    /// Leave to take what it holds into memory, to be kept for as long as that is there.
    pub(crate) fn room_to_spill(&self) -> Option<Reservation> {
        self.pipes.budget.reserve(self.held)
    }

    /// What it holds, taken into memory.
    pub(crate) fn spill(mut self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.held];
        let mut taken = 0;
        while taken < bytes.len() {
            match read(&self.pipe.reader, &mut bytes[taken..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => taken += length,
            }
        }
        self.held = 0;
        Ok(bytes.into())
    }
}

/// splice(2) never steps over urgent data: it reports nothing, or the end, though more is queued behind. read(2) does,
/// so only its word is the end.
pub(crate) fn read_past(from: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    bytes.resize(READ_PAST, 0);
    Ok(read(from, bytes)?)
}

impl Drop for Lent {
    /// What still holds data is closed: nobody may find it in there.
    fn drop(&mut self) {
        let mut stock = self.pipes.stock.lock();
        stock.lent -= 1;
        if self.held == 0 && stock.idle.len() < IDLE {
            stock.idle.push(Arc::clone(&self.pipe));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn budget() -> Budget {
        Budget::new(CAPACITY, CAPACITY)
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// Without a bound, stalled readers would take the descriptors of everybody else.
    #[test]
    fn no_more_are_lent_than_may_be_and_few_are_kept() {
        let pipes = Pipes::new(2 * IDLE, budget());
        let lent: Vec<_> = std::iter::from_fn(|| pipes.lend()).collect();
        assert_eq!(lent.len(), 2 * IDLE);
        drop(lent);
        assert_eq!(pipes.stock.lock().idle.len(), IDLE);
        assert!(pipes.lend().is_some());
    }

    /// Else one connection's bytes would come out of another.
    #[tokio::test]
    async fn a_pipe_that_holds_data_is_never_lent_again() {
        let pipes = Pipes::new(1, budget());
        let (mut sender, receiver) = pair().await;
        sender.write_all(b"secret").await.unwrap();
        receiver.readable().await.unwrap();
        let mut pipe = pipes.lend().unwrap();
        assert_eq!(pipe.fill(&receiver).unwrap(), 6);
        drop(pipe);
        assert!(pipes.stock.lock().idle.is_empty());
        assert!(pipes.lend().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_went_in_comes_out_and_what_is_left_is_spilled() {
        let pipes = Pipes::new(1, budget());
        let ((mut sender, receiver), (relay, mut reader)) = (pair().await, pair().await);
        sender.write_all(b"by splice").await.unwrap();
        receiver.readable().await.unwrap();
        let mut pipe = pipes.lend().unwrap();
        pipe.fill(&receiver).unwrap();
        assert_eq!(pipe.drain(&relay).unwrap(), 9);
        let mut bytes = [0; 9];
        reader.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"by splice");
        sender.write_all(b"by hand").await.unwrap();
        receiver.readable().await.unwrap();
        while pipe.is_empty() {
            match pipe.fill(&receiver) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                filled => assert_eq!(filled.unwrap(), 7),
            }
        }
        assert_eq!(&pipe.spill().unwrap()[..], b"by hand");
        assert_eq!(pipes.stock.lock().idle.len(), 1, "it is empty again");
    }
}
