//! Which connections get a line.

use serde::{Deserialize, Serialize};

use super::ErrorLines;
use crate::{Outcome, ResponseFlags, account::Account};

/// What of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AccessLog {
    pub mode: AccessLogMode,
    pub sample: Fraction,
    pub errors: ErrorLines,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogMode {
    #[default]
    All,
    /// What was refused, could not be made or broke.
    Errors,
    Off,
}

/// Of the connections that went well, how many get a line: from 0, none, to 1, all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct Fraction(f64);

#[derive(Debug, thiserror::Error)]
#[error("expected a fraction from 0 to 1, found {0}")]
pub struct NotAFraction(f64);

/// Spreads consecutive numbers evenly over all of `u64` (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl AccessLog {
    /// Errors are never sampled. All nodes that a trace passes decide alike, if their settings are alike.
    pub(crate) fn wants(&self, account: &Account, outcome: &Outcome) -> bool {
        let went_well = outcome.flags() == ResponseFlags::None;
        match self.mode {
            AccessLogMode::Off => false,
            AccessLogMode::Errors => !went_well,
            AccessLogMode::All if went_well => self.sample.takes(dice(account)),
            AccessLogMode::All => true,
        }
    }
}

fn dice(account: &Account) -> u64 {
    account.trace.get().map_or_else(|| account.id.wrapping_mul(SPREAD), |trace| trace.dice())
}

impl Fraction {
    /// `dice` is any of the numbers, each as likely as the others.
    fn takes(self, dice: u64) -> bool {
        // 53 bits are what a float holds exactly; 1.0 takes all of them, 0.0 none.
        const STEPS: u64 = 1 << 53;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let (dice, steps) = ((dice >> 11) as f64, STEPS as f64);
        dice < self.0 * steps
    }
}

impl Default for Fraction {
    fn default() -> Self {
        Self(1.0)
    }
}

impl TryFrom<f64> for Fraction {
    type Error = NotAFraction;

    fn try_from(value: f64) -> Result<Self, NotAFraction> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(NotAFraction(value)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_takes_so_many_and_its_ends_take_all_or_nothing() {
        let taken = |fraction: f64| {
            let fraction = Fraction::try_from(fraction).unwrap();
            (0..10_000_u64).filter(|n| fraction.takes(n.wrapping_mul(SPREAD))).count()
        };
        assert_eq!((taken(0.0), taken(1.0)), (0, 10_000));
        assert!((990..=1010).contains(&taken(0.1)), "{}", taken(0.1));
        assert!(Fraction::default().takes(u64::MAX) && Fraction::default().takes(0));
    }

    #[test]
    fn what_is_no_fraction_is_refused() {
        for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Fraction::try_from(value).is_err(), "{value}");
        }
    }
}
