//! A histogram of durations, in seconds: fixed buckets, an atomic each. Recording allocates nothing and takes no lock.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use ::metrics::HistogramFn;

use super::text;

/// Upper bounds: from a handshake within a machine to the longest deadline. Quantiles are told to within a factor of 2.5.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// One for each bound, and one for what is beyond.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Whole numbers add up without a loop.
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// `series` is `name{labels}` or `name`.
    pub(super) fn render(&self, page: &mut String, series: &str) {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}');
        let separator = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(&self.buckets) {
            count += bucket.load(Relaxed);
            // Writing to a string cannot fail.
            let _ = writeln!(page, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {count}");
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = text::seconds(self.nanoseconds.load(Relaxed));
        let _ = write!(page, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}\n");
    }
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        let bucket = BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        let nanoseconds = std::time::Duration::try_from_secs_f64(value).unwrap_or_default().as_nanos();
        self.nanoseconds.fetch_add(u64::try_from(nanoseconds).unwrap_or(u64::MAX), Relaxed);
    }
}
