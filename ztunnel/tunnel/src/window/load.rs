//! What all tunnels of the daemon hold, for whoever watches over its memory. Atomics only: each stream adds its part.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

#[derive(Debug, Default)]
pub(crate) struct Load {
    streams: AtomicUsize,
    buffered: AtomicUsize,
    /// How often a tunnel came to have all the streams that it may.
    full_outbound: AtomicU64,
    full_inbound: AtomicU64,
}

/// One stream's part, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Part {
    load: Arc<Load>,
    buffered: usize,
}

impl Load {
    /// Open streams, and the bytes they hold together.
    pub(crate) fn now(&self) -> (usize, usize) {
        (self.streams.load(Relaxed), self.buffered.load(Relaxed))
    }

    pub(crate) fn outbound_is_full(&self) {
        self.full_outbound.fetch_add(1, Relaxed);
    }

    pub(crate) fn inbound_is_full(&self) {
        self.full_inbound.fetch_add(1, Relaxed);
    }

    /// Outbound and inbound, ever.
    pub(crate) fn full(&self) -> (u64, u64) {
        (self.full_outbound.load(Relaxed), self.full_inbound.load(Relaxed))
    }
}

impl Part {
    pub(super) fn new(load: &Arc<Load>) -> Self {
        load.streams.fetch_add(1, Relaxed);
        Self { load: Arc::clone(load), buffered: 0 }
    }

    /// The stream holds so much now.
    pub(crate) fn set(&mut self, bytes: usize) {
        // Wraps around twice if it is less than before.
        self.load.buffered.fetch_add(bytes.wrapping_sub(self.buffered), Relaxed);
        self.buffered = bytes;
    }

    pub(crate) fn release(&mut self, bytes: usize) {
        self.set(self.buffered.saturating_sub(bytes));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
        self.load.streams.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part that stays behind would show memory in use for ever.
    #[test]
    fn what_streams_hold_adds_up_and_goes_with_them() {
        let load = Arc::<Load>::default();
        let (mut one, mut other) = (Part::new(&load), Part::new(&load));
        one.set(100);
        other.set(10);
        one.set(40);
        assert_eq!(load.now(), (2, 50));
        one.release(30);
        other.release(11);
        assert_eq!(load.now(), (2, 10));
        drop(one);
        assert_eq!(load.now(), (1, 0));
        drop(other);
        assert_eq!(load.now(), (0, 0));
    }
}
