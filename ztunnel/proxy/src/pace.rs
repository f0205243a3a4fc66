//! How fast a listener accepts: a token bucket. What comes faster waits in the kernel's queue.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

#[derive(Debug)]
pub(crate) struct Pace {
    /// Between two connections.
    interval: Duration,
    /// How far ahead of that pace it may be after a pause.
    lead: Duration,
    /// When the next is due, had there never been a pause.
    due: Instant,
}

impl Pace {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, lead: interval * burst.saturating_sub(1), due: Instant::now() }
    }

    /// Yields whether it had to wait.
    pub(crate) async fn wait(&self) -> bool {
        let next = self.due.checked_sub(self.lead).unwrap_or(self.due);
        let early = next > Instant::now();
        if early {
            sleep_until(next).await;
        }
        early
    }

    pub(crate) fn count(&mut self) {
        self.due = self.due.max(Instant::now()) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If the burst were not bounded, or a pause were made up for without end, a storm would come in at any speed.
    #[tokio::test(start_paused = true)]
    async fn after_a_burst_the_pace_is_kept() {
        let mut pace = Pace::new(10, 5);
        let started = Instant::now();
        let mut waits = 0;
        for _ in 0..25 {
            waits += u32::from(pace.wait().await);
            pace.count();
        }
        assert_eq!((waits, started.elapsed()), (20, Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(60)).await;
        let resumed = Instant::now();
        for _ in 0..15 {
            pace.wait().await;
            pace.count();
        }
        assert_eq!(resumed.elapsed(), Duration::from_secs(1));
    }
}
