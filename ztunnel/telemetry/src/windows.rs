//! How much is written of what may come in floods: of each kind the first few of an interval, and then their number.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct Windows<K> {
    per_interval: u64,
    interval: Duration,
    open: Mutex<HashMap<K, Window>>,
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

impl<K: Clone + Eq + Hash> Windows<K> {
    pub(crate) fn new(per_interval: u64, interval: Duration) -> Self {
        Self { per_interval, interval, open: Mutex::default() }
    }

    pub(crate) fn admit(&self, kind: K, now: Instant) -> Admission {
        let mut windows = self.open.lock();
        let window = windows.entry(kind).or_insert(Window { since: now, seen: 0 });
        let mut suppressed = 0;
        if now.duration_since(window.since) >= self.interval {
            suppressed = window.seen.saturating_sub(self.per_interval);
            *window = Window { since: now, seen: 0 };
        }
        window.seen += 1;
        if window.seen <= self.per_interval { Admission::Write { suppressed } } else { Admission::Suppress }
    }

    /// Whether one more of this kind would be one kind more than `most`.
    pub(crate) fn is_full_for(&self, kind: &K, most: usize) -> bool {
        let windows = self.open.lock();
        windows.len() >= most && !windows.contains_key(kind)
    }

    /// The numbers of what was held back in intervals that are over, each told once.
    pub(crate) fn take_finished(&self, now: Instant) -> Vec<(K, u64)> {
        let mut finished = Vec::new();
        self.open.lock().retain(|kind, window| {
            let over = now.duration_since(window.since) >= self.interval;
            if over && window.seen > self.per_interval {
                finished.push((kind.clone(), window.seen - self.per_interval));
            }
            !over
        });
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Without a bound a peer fills the disk; without the count nobody knows that it tried.
    #[test]
    fn a_flood_writes_a_few_lines_and_then_its_size() {
        let log = Windows::new(2, MINUTE);
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
        let log = Windows::new(1, MINUTE);
        let now = Instant::now();
        assert_eq!(log.admit("a", now), Admission::Write { suppressed: 0 });
        assert_eq!(log.admit("a", now), Admission::Suppress);
        assert_eq!(log.admit("b", now), Admission::Write { suppressed: 0 });
    }

    /// A storm that just stops still leaves its count, once.
    #[test]
    fn a_storm_that_passed_is_summed_up_once() {
        let log = Windows::new(1, MINUTE);
        let start = Instant::now();
        for _ in 0..5 {
            log.admit("a", start);
        }
        assert_eq!(log.take_finished(start), []);
        assert_eq!(log.take_finished(start + MINUTE), [("a", 4)]);
        assert_eq!(log.take_finished(start + MINUTE * 2), []);
    }
}
