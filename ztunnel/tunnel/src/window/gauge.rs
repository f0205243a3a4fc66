//! What the streams of a connection tell the task that drives it: how many they are, and how fast they are read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Reading speed is judged over this long. So a window is never much more than what its reader takes in this time,
/// and it suffices for round trips of up to half of it.
const PERIOD: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Gauge {
    /// The window each stream has now.
    window: AtomicU32,
    /// The window some stream could use; 0 if none asked since the driver last looked.
    wanted: AtomicU32,
    /// Whether any stream made use of its window since the driver last asked.
    busy: AtomicBool,
    /// Bytes read and given back to the peer, ever.
    drained: AtomicU64,
    streams: AtomicU32,
    /// Streams ever opened.
    opened: AtomicU32,
    /// Streams that the peer allows at once, as last heard.
    allowed: AtomicU32,
}

/// One stream's place among those of its connection.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Gauge>);

/// One stream's reading speed.
#[derive(Debug)]
pub(crate) struct Meter {
    since: Instant,
    drained: usize,
    /// The reader found nothing to read since then, so it is not behind.
    waited: bool,
}

impl Gauge {
    pub(crate) fn new(window: u32) -> Self {
        Self {
            window: AtomicU32::new(window),
            wanted: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            drained: AtomicU64::new(0),
            streams: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            allowed: AtomicU32::new(u32::MAX),
        }
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    pub(crate) fn allow(&self, streams: u32) {
        self.allowed.store(streams, Relaxed);
    }

    /// A place, if fewer than `limit` and what the peer allows are taken.
    pub(crate) fn slot(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        let limit = limit.min(self.allowed.load(Relaxed));
        let more = |streams: u32| (streams < limit).then_some(streams + 1);
        self.streams.fetch_update(Relaxed, Relaxed, more).ok()?;
        self.opened.fetch_add(1, Relaxed);
        Some(Slot(Arc::clone(self)))
    }

    /// Wraps around: good for telling whether any was opened.
    pub(crate) fn opened(&self) -> u32 {
        self.opened.load(Relaxed)
    }

    pub(super) fn set_window(&self, window: u32) {
        self.window.store(window, Relaxed);
    }

    pub(super) fn wanted(&self) -> u32 {
        self.wanted.load(Relaxed)
    }

    pub(super) fn forget_wanted(&self) {
        self.wanted.store(0, Relaxed);
    }

    pub(super) fn was_busy(&self) -> bool {
        self.busy.swap(false, Relaxed)
    }

    pub(super) fn drained(&self) -> u64 {
        self.drained.load(Relaxed)
    }
}

impl Slot {
    pub(crate) fn gauge(&self) -> &Gauge {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self::from(Instant::now())
    }

    /// The reader finds nothing to read.
    pub(crate) fn waits(&mut self) {
        self.waited = true;
    }

    /// The reader has handed `bytes` on.
    pub(crate) fn drained(&mut self, gauge: &Gauge, bytes: usize) {
        gauge.drained.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Relaxed);
        let now = Instant::now();
        if now.duration_since(self.since) > PERIOD {
            *self = Self::from(now);
        }
        self.drained += bytes;
        let window = gauge.window.load(Relaxed);
        let size = usize::try_from(window).unwrap_or(usize::MAX);
        if self.drained >= size / 4 && !gauge.busy.load(Relaxed) {
            gauge.busy.store(true, Relaxed);
        }
        // Twice the window within the period, and never behind for all of it: it is the window that limits.
        if self.drained >= size.saturating_mul(2) {
            if self.waited {
                gauge.wanted.fetch_max(window.saturating_mul(2), Relaxed);
            }
            *self = Self::from(now);
        }
    }

    fn from(since: Instant) -> Self {
        Self { since, drained: 0, waited: false }
    }
}
