//! A log that a peer cannot flood: per reason, the first few of an interval are written, the rest are counted,
//! and the count is written when the interval is over.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::windows::{Admission, Windows};

/// Reasons are a fixed vocabulary, so the windows are few.
#[derive(Debug)]
pub struct RateLimited(Windows<&'static str>);

impl RateLimited {
    pub fn new(per_interval: u64, interval: Duration) -> Self {
        Self(Windows::new(per_interval, interval))
    }

    /// A warning of something that `peer` did. `error` is formatted only if it is written.
    pub fn warn(&self, reason: &'static str, peer: impl fmt::Display, error: impl fmt::Display) {
        let Admission::Write { suppressed } = self.0.admit(reason, Instant::now()) else { return };
        if suppressed > 0 {
            write_summary(reason, suppressed);
        }
        // As a string it is quoted and escaped: an error may repeat what the peer sent.
        tracing::warn!(reason, %peer, error = error.to_string().as_str(), "refused");
    }

    /// For who writes the line themselves.
    pub fn admit(&self, reason: &'static str, now: Instant) -> Admission {
        self.0.admit(reason, now)
    }

    /// Writes the counts of intervals that are over, for a storm that has passed. To be called now and then.
    pub fn summarize(&self) {
        for (reason, suppressed) in self.0.take_finished(Instant::now()) {
            write_summary(reason, suppressed);
        }
    }
}

fn write_summary(reason: &'static str, suppressed: u64) {
    tracing::warn!(reason, suppressed, "more of the same were not logged");
}
