//! How long to wait after a failure: longer each time, never the same for two clients.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(20);
/// What fails after so long has worked in between, even if nothing happened that could be told.
const FORGOTTEN: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Instant>,
}

impl Backoff {
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.duration_since(last) > FORGOTTEN) {
            self.failures = 0;
        }
        self.last = Some(now);
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(0.5 + jitter() / 2.0)
    }
}

/// From 0 to 1. The standard library's own seeds are random enough to keep clients apart.
fn jitter() -> f64 {
    let random = RandomState::new().hash_one(0_u8) >> 40;
    f64::from(u32::try_from(random).unwrap_or_default()) / f64::from(1_u32 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if a broken API server would be asked ever faster, in step with others, or hardly ever again.
    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_stay_within_bounds() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.failed(Instant::now())).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{waits:?}");
        assert!(waits[11] >= LONGEST / 2 && waits[11] <= LONGEST, "{waits:?}");
        backoff.succeeded();
        assert!(backoff.failed(Instant::now()) <= FIRST);
        for _ in 0..12 {
            backoff.failed(Instant::now());
        }
        tokio::time::advance(FORGOTTEN + Duration::from_secs(1)).await;
        assert!(backoff.failed(Instant::now()) <= FIRST);
    }
}
