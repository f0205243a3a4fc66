//! When to renew and when to try again: pure arithmetic.

use std::time::{Duration, SystemTime};

/// Renewals of certificates issued together spread over this share of the lifetime.
const SPREAD: f64 = 0.1;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// While there is no certificate that lives, connections fail: the authority's return must not go unnoticed for long.
const LONGEST_WITHOUT: Duration = Duration::from_secs(30);

/// When to start renewing: at half of the lifetime, or up to a tenth of the lifetime earlier by `jitter` (0 to 1).
pub(super) fn renew_at(from: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let lifetime = not_after.duration_since(from).unwrap_or_default();
    from + lifetime.mul_f64(0.5 - SPREAD * share(jitter))
}

/// How long to wait after the `failures`th failure in a row: doubled each time, between half and all of it by
/// `jitter`; and with a certificate running out, never so long that fewer than four attempts remain.
pub(super) fn retry_after(failures: u32, left: Option<Duration>, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let longest = left.map_or(LONGEST_WITHOUT, |left| (left / 4).clamp(FIRST_RETRY, LONGEST_RETRY));
    let whole = FIRST_RETRY.saturating_mul(1 << doublings).min(longest);
    whole.mul_f64(0.5 + 0.5 * share(jitter))
}

/// How long an authority is waited for: with a certificate running out, never so long that fewer than four attempts
/// remain.
pub(super) fn patience(deadline: Duration, left: Option<Duration>) -> Duration {
    left.map_or(deadline, |left| (left / 4).max(FIRST_RETRY).min(deadline))
}

fn share(jitter: f64) -> f64 {
    if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn renewal_starts_at_half_life_at_the_latest(lifetime in 1u64..100_000_000, jitter in any::<f64>()) {
            let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let lifetime = Duration::from_secs(lifetime);
            let renewal = renew_at(from, from + lifetime, jitter).duration_since(from).unwrap();
            prop_assert!(renewal <= lifetime.mul_f64(0.5));
            prop_assert!(renewal >= lifetime.mul_f64(0.39), "{renewal:?} of {lifetime:?} is a waste");
        }

        #[test]
        fn retries_are_neither_hurried_nor_too_late(failures: u32, left: Option<u32>, jitter in any::<f64>()) {
            let left = left.map(|left| Duration::from_secs(left.into()));
            let wait = retry_after(failures, left, jitter);
            prop_assert!(wait >= FIRST_RETRY / 2 && wait <= LONGEST_RETRY);
            if let Some(left) = left.filter(|left| *left >= 4 * FIRST_RETRY) {
                prop_assert!(wait <= left / 4);
            }
        }
    }

    #[test]
    fn an_authority_that_hangs_is_given_up_before_the_certificate_is_over() {
        let deadline = Duration::from_secs(10);
        let patience = |left: Option<u64>| patience(deadline, left.map(Duration::from_secs)).as_secs();
        assert_eq!([None, Some(3600), Some(8), Some(1)].map(patience), [10, 10, 2, 1]);
    }

    #[test]
    fn retries_back_off() {
        let waits: Vec<u64> = (1..12).map(|n| retry_after(n, None, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30]);
    }

    #[test]
    fn with_a_certificate_in_hand_retries_back_off_further() {
        let left = Some(Duration::from_secs(12 * 3600));
        let waits: Vec<u64> = (5..12).map(|n| retry_after(n, left, 1.0).as_secs()).collect();
        assert_eq!(waits, [16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn a_certificate_that_ends_before_it_begins_is_due_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(renew_at(now, now - Duration::from_secs(1), 0.5), now);
    }
}
