//! A log that a peer cannot flood: per reason, the first few of an interval are written, the rest are counted,
//! and the count is written when the interval is over.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Reasons are a fixed vocabulary, so the windows are few.
#[derive(Debug)]
pub struct RateLimited {
    per_interval: u64,
    interval: Duration,
    windows: Mutex<HashMap<&'static str, Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Write it; `suppressed` were held back in the interval before.
    Write {
        suppressed: u64,
    },
    Suppress,
}

impl RateLimited {
    pub fn new(per_interval: u64, interval: Duration) -> Self {
        Self { per_interval, interval, windows: Mutex::default() }
    }

    /// A warning of something that `peer` did. `error` is formatted only if it is written.
    pub fn warn(&self, reason: &'static str, peer: impl fmt::Display, error: impl fmt::Display) {
        let Admission::Write { suppressed } = self.admit(reason, Instant::now()) else { return };
        if suppressed > 0 {
            write_summary(reason, suppressed);
        }
        // As a string it is quoted and escaped: an error may repeat what the peer sent.
        tracing::warn!(reason, %peer, error = error.to_string().as_str(), "refused");
    }

    pub fn admit(&self, reason: &'static str, now: Instant) -> Admission {
        let mut windows = self.windows.lock();
        let window = windows.entry(reason).or_insert(Window { since: now, seen: 0 });
        let mut suppressed = 0;
        if now.duration_since(window.since) >= self.interval {
            suppressed = window.seen.saturating_sub(self.per_interval);
            *window = Window { since: now, seen: 0 };
        }
        window.seen += 1;
        if window.seen <= self.per_interval { Admission::Write { suppressed } } else { Admission::Suppress }
    }

    /// Writes the counts of intervals that are over, for a storm that has passed. To be called now and then.
    pub fn summarize(&self) {
        for (reason, suppressed) in self.take_finished(Instant::now()) {
            write_summary(reason, suppressed);
        }
    }

    fn take_finished(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut finished = Vec::new();
        self.windows.lock().retain(|&reason, window| {
            let over = now.duration_since(window.since) >= self.interval;
            if over && window.seen > self.per_interval {
                finished.push((reason, window.seen - self.per_interval));
            }
            !over
        });
        finished
    }
}

fn write_summary(reason: &'static str, suppressed: u64) {
    tracing::warn!(reason, suppressed, "more of the same were not logged");
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Without a bound a peer fills the disk; without the count nobody knows that it tried.
    #[test]
    fn a_flood_writes_a_few_lines_and_then_its_size() {
        let log = RateLimited::new(2, MINUTE);
        let start = Instant::now();
        let admitted: Vec<_> = (0..1000).map(|_| log.admit("bad_certificate", start)).collect();
        assert_eq!(admitted[..2], [Admission::Write { suppressed: 0 }; 2]);
        assert!(admitted[2..].iter().all(|admission| *admission == Admission::Suppress));
        assert_eq!(log.admit("bad_certificate", start + MINUTE), Admission::Write { suppressed: 998 });
        assert_eq!(log.admit("bad_certificate", start + MINUTE), Admission::Write { suppressed: 0 });
    }

    /// One noisy peer must not hide what another does for another reason.
    #[test]
    fn reasons_do_not_share_a_budget() {
        let log = RateLimited::new(1, MINUTE);
        let now = Instant::now();
        assert_eq!(log.admit("a", now), Admission::Write { suppressed: 0 });
        assert_eq!(log.admit("a", now), Admission::Suppress);
        assert_eq!(log.admit("b", now), Admission::Write { suppressed: 0 });
    }

    /// A storm that just stops still leaves its count, once.
    #[test]
    fn a_storm_that_passed_is_summed_up_once() {
        let log = RateLimited::new(1, MINUTE);
        let start = Instant::now();
        for _ in 0..5 {
            log.admit("a", start);
        }
        assert_eq!(log.take_finished(start), []);
        assert_eq!(log.take_finished(start + MINUTE), [("a", 4)]);
        assert_eq!(log.take_finished(start + MINUTE * 2), []);
    }
}
