//! How many requests of one pod are looked at: a token bucket.

use std::{num::NonZeroU32, sync::Mutex, sync::PoisonError, time::Duration};

use tokio::time::Instant;

/// How far ahead of the pace a pod may be after a pause.
const LEAD: Duration = Duration::from_secs(1);

pub(crate) struct Pace {
    /// Between two requests.
    interval: Duration,
    /// When the next is due, had there never been a pause.
    due: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: NonZeroU32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.get(), due: Mutex::new(Instant::now()) }
    }

    /// Whether one more may be looked at now; if not, how long until it may.
    pub(crate) fn admit(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let early = due.saturating_duration_since(now);
        if early + self.interval > LEAD.max(self.interval) {
            return Err(early + self.interval - LEAD.max(self.interval));
        }
        *due = (*due).max(now) + self.interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a flood that is looked at in whole; a pause that is made up for without end; a pod that stays shut out.
    #[tokio::test(start_paused = true)]
    async fn a_flood_is_held_to_the_pace_and_forgotten_when_it_is_over() {
        let pace = Pace::new(NonZeroU32::new(100).unwrap());
        let burst = || (0..1000).filter(|_| pace.admit().is_ok()).count();
        assert_eq!((burst(), burst()), (100, 0));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(burst(), 10);
        let wait = pace.admit().unwrap_err();
        tokio::time::advance(wait).await;
        assert!(pace.admit().is_ok());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(burst(), 100);
    }
}
