//! How long things took, each of them.

use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Latencies(Vec<f64>);

impl Latencies {
    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e6);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// In microseconds: the median, and what 99 of 100 stay below.
    pub(super) fn p50_and_p99(mut self) -> (f64, f64) {
        self.0.sort_by(f64::total_cmp);
        let at = |per_cent: usize| {
            let rank = (self.0.len() * per_cent).div_ceil(100);
            self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        (at(50), at(99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: an off-by-one at the ends, and values that are taken unsorted.
    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let mut latencies = Latencies::default();
        for micros in (1..=200).rev() {
            latencies.add(Duration::from_micros(micros));
        }
        let (p50, p99) = latencies.p50_and_p99();
        assert!((p50 - 100.0).abs() < 1e-6 && (p99 - 198.0).abs() < 1e-6, "{p50} {p99}");
        let mut one = Latencies::default();
        one.add(Duration::from_micros(7));
        let (p50, p99) = one.p50_and_p99();
        assert!((p50 - 7.0).abs() < 1e-6 && (p99 - 7.0).abs() < 1e-6, "{p50} {p99}");
        assert_eq!(Latencies::default().p50_and_p99(), (0.0, 0.0));
    }
}
