//! How long to wait before the next stream. A control plane that comes back meets all its nodes, but not at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);
/// Doubled so often and no more for one that answers, and restarts now and then: a second and a half.
const ANSWERING: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After a stream that lasted so long, and brought anything or not. `dice` is any number.
    pub(super) fn next(&mut self, lasted: Duration, was_answered: bool, dice: u32) -> Duration {
        if lasted > LONGEST {
            self.failures = 0;
        } else if was_answered {
            self.failures = self.failures.min(ANSWERING);
        }
        let longest = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let share = 0.5 + f64::from(dice) / f64::from(u32::MAX) / 2.0;
        longest.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_limit_and_starts_anew_after_a_stream_that_lasted() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.next(Duration::ZERO, false, u32::MAX)).collect();
        assert_eq!(pauses[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(pauses[11], LONGEST);
        assert_eq!(backoff.next(LONGEST * 2, true, 0), FIRST / 2, "jitter takes at most half");
    }

    /// Would break if a control plane whose replicas are restarted one after the other were left alone for a quarter of a
    /// minute, or one that answers and ends each stream were asked all the time.
    #[test]
    fn one_that_answers_is_asked_again_soon_and_not_at_once() {
        let mut backoff = Backoff::default();
        (0..12).for_each(|_| _ = backoff.next(Duration::ZERO, false, 0));
        for _ in 0..12 {
            assert_eq!(backoff.next(Duration::from_secs(1), true, u32::MAX), FIRST * 16);
        }
        assert_eq!(backoff.next(Duration::ZERO, false, u32::MAX), FIRST * 32);
    }
}
