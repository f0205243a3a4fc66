//! What the streams of a connection tell the task that drives it: how many they are, and how fast they are read.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, SetOnce},
    time::Instant,
};

use super::{Load, Part, StreamReservation};
use crate::error::StreamError;

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
    /// Told when that changes.
    heard: Notify,
    /// The first stream has been asked for, or given up.
    begun: SetOnce<()>,
    load: Arc<Load>,
    /// The connection is ended for the sake of a certificate.
    revoked: AtomicBool,
}

/// One stream's place among those of its connection.
#[derive(Debug)]
pub(crate) struct Slot {
    gauge: Arc<Gauge>,
    /// Which of the streams it was when it was taken. So there are never more than `n` with a number up to `n`.
    number: u32,
    /// Its window, taken from what all streams may have together.
    window: Option<StreamReservation>,
}

/// One stream's reading speed.
#[derive(Debug)]
pub(crate) struct Meter {
    since: Instant,
    drained: usize,
    /// The reader found nothing to read since then, so it is not behind.
    waited: bool,
}

impl Gauge {
    pub(crate) fn new(window: u32, load: &Arc<Load>) -> Self {
        Self {
            window: AtomicU32::new(window),
            wanted: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            drained: AtomicU64::new(0),
            streams: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            allowed: AtomicU32::new(u32::MAX),
            heard: Notify::new(),
            begun: SetOnce::new(),
            load: Arc::clone(load),
            revoked: AtomicBool::new(false),
        }
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    /// The part of a new stream in what all tunnels hold.
    pub(crate) fn part(&self) -> Part {
        Part::new(&self.load)
    }

    pub(crate) fn allow(&self, streams: u32) {
        self.allowed.store(streams, Relaxed);
        self.heard.notify_waiters();
    }

    pub(crate) fn allowed(&self) -> u32 {
        self.allowed.load(Relaxed)
    }

    /// A place, if fewer than `limit` and what the peer allows are taken.
    pub(crate) fn slot(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        let limit = limit.min(self.allowed());
        let more = |streams: u32| (streams < limit).then_some(streams + 1);
        let before = self.streams.fetch_update(Relaxed, Relaxed, more).ok()?;
        self.opened.fetch_add(1, Relaxed);
        Some(Slot { gauge: Arc::clone(self), number: before + 1, window: None })
    }

    /// Wraps around: good for telling whether any was opened.
    pub(crate) fn opened(&self) -> u32 {
        self.opened.load(Relaxed)
    }

    /// Said before the connection is ended, so that its streams know why.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Relaxed);
    }

    /// What is behind the end of the connection that a stream has met with.
    pub(crate) fn why(&self, error: StreamError) -> StreamError {
        match error {
            StreamError::Connection(_) if self.revoked.load(Relaxed) => StreamError::Revoked,
            other => other,
        }
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
    /// Whether its connection has no room for another.
    pub(crate) fn is_last_of(&self, limit: u32) -> bool {
        self.number >= limit
    }

    /// What the stream's window is taken from is given back together with the place.
    pub(crate) fn holding(mut self, window: StreamReservation) -> Self {
        self.window = Some(window);
        self
    }

    pub(crate) fn gauge(&self) -> &Gauge {
        &self.gauge
    }

    /// The first stream is asked for before all others: a peer that allows but one must not refuse the one for whose
    /// sake the connection was made, which has no other to go to.
    pub(crate) async fn turn(&self) {
        if self.number > 1 {
            self.gauge.begun.wait().await;
        }
    }

    pub(crate) fn took_turn(&self) {
        if self.number == 1 {
            // Set already if this place was another's before.
            let _ = self.gauge.begun.set(());
        }
    }

    /// Resolves once the peer is known to allow fewer streams than it takes to have this one among them.
    pub(crate) async fn is_too_many(&self) {
        loop {
            let mut heard = pin!(self.gauge.heard.notified());
            heard.as_mut().enable();
            if self.number > self.gauge.allowed() {
                return;
            }
            heard.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.took_turn();
        self.gauge.streams.fetch_sub(1, Relaxed);
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
