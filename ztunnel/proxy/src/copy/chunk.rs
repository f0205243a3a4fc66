//! How much to read at once: little from a quiet connection, much from a busy one, and nothing is held in between.

use bytes::{Bytes, BytesMut};

const SMALLEST: usize = 4 << 10;
/// What a stream has room for: more would leave crumbs, each with a read and a write of its own.
const LARGEST: usize = tunnel::SEND_BUFFER;

/// Learns from each read how large the next buffer should be.
#[derive(Debug)]
pub(super) struct ChunkSize(usize);

impl ChunkSize {
    pub(super) fn new() -> Self {
        Self(SMALLEST)
    }

    pub(super) fn wanted(&self) -> usize {
        self.0
    }

    /// Nothing larger would be wanted: the connection is busy.
    pub(super) fn is_largest(&self) -> bool {
        self.0 == LARGEST
    }

    pub(super) fn buffer(&self, room: usize) -> BytesMut {
        BytesMut::with_capacity(self.0.min(room))
    }

    /// A full buffer means there was more; one that is mostly empty was too large. One that had to be smaller than
    /// wanted, for want of `room`, says nothing.
    pub(super) fn learn(&mut self, read: usize, room: usize) {
        if room < self.0 {
            return;
        }
        if read >= self.0 {
            self.0 = (self.0 * 2).min(LARGEST);
        } else if read < self.0 / 4 {
            self.0 = (self.0 / 2).max(SMALLEST);
        }
    }
}

/// What was read, to be queued. A few bytes must not hold a large buffer for as long as they wait: a peer that
/// sends single bytes into a stalled stream would make us hold thousands of times what it sent.
pub(super) fn queueable(buffer: BytesMut) -> Bytes {
    if buffer.len() < buffer.capacity() / 2 { Bytes::copy_from_slice(&buffer) } else { buffer.freeze() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(reads: &[usize]) -> usize {
        let mut size = ChunkSize::new();
        reads.iter().for_each(|&read| size.learn(read, LARGEST));
        size.0
    }

    /// Fixed small buffers would cost a busy connection sixteen times the system calls.
    #[test]
    fn a_busy_connection_grows_to_the_limit_and_no_further() {
        assert_eq!(after(&[4096]), 8192);
        assert_eq!(after(&[usize::MAX; 20]), LARGEST);
    }

    /// If it never shrank, every connection that was busy once would read into 64 KiB for ever.
    #[test]
    fn a_connection_gone_quiet_shrinks_back() {
        let busy_then_quiet = [[usize::MAX; 10], [1; 10]].concat();
        assert_eq!(after(&busy_then_quiet), SMALLEST);
    }

    /// Else a connection whose reader is slow would read in crumbs for ever.
    #[test]
    fn want_of_room_teaches_nothing() {
        let mut size = ChunkSize(LARGEST);
        size.learn(1, 1);
        assert_eq!(size.wanted(), LARGEST);
        assert_eq!(size.buffer(1).capacity(), 1);
    }

    #[test]
    fn a_few_bytes_do_not_keep_a_large_buffer() {
        let mut buffer = BytesMut::with_capacity(LARGEST);
        buffer.extend_from_slice(b"x");
        let address = buffer.as_ptr();
        assert_ne!(queueable(buffer).as_ptr(), address);
    }
}
