//! How the time for one connection is shared among attempts at it.

use tokio::time::Instant;

/// A bounded number of attempts, all over by one moment. An attempt that only hangs leaves the later ones their part.
#[derive(Debug)]
pub(crate) struct Turns {
    left: u32,
    until: Instant,
}

impl Turns {
    pub(crate) fn new(count: u32, until: Instant) -> Self {
        Self { left: count, until }
    }

    /// By when the next attempt must be over; `None` if there is to be no other. The last one has all the time that is
    /// left; `others` says whether there is anybody to turn to after this one.
    pub(crate) fn next(&mut self, now: Instant, others: bool) -> Option<Instant> {
        let share = self.left;
        self.left = self.left.checked_sub(1)?;
        if !others || share == 1 {
            return Some(self.until);
        }
        Some(now + self.until.saturating_duration_since(now) / share)
    }

    /// When all of them are over.
    pub(crate) fn end(&self) -> Instant {
        self.until
    }

    pub(crate) fn are_over(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// If the first attempt could take all the time, a silent endpoint would fail the connection alone.
    #[test]
    fn who_hangs_leaves_the_others_their_part() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut turns = Turns::new(3, after(9));
        assert_eq!(turns.next(start, true), Some(after(3)));
        assert_eq!(turns.next(after(3), true), Some(after(6)));
        assert!(!turns.are_over());
        assert_eq!(turns.next(after(6), true), Some(after(9)));
        assert!(turns.are_over());
        assert_eq!(turns.next(after(7), true), None);
    }

    /// What fails at once leaves its time to the others, and who is the only one has all of it.
    #[test]
    fn time_that_is_not_used_is_not_lost() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(Turns::new(3, after(9)).next(start, false), Some(after(9)));
        let mut turns = Turns::new(3, after(9));
        turns.next(start, true);
        assert_eq!(turns.next(after(1), true), Some(after(5)));
    }
}
