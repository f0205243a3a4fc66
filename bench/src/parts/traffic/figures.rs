//! From samples to figures.

use super::{RELAYS, Way, work::Work};
use crate::{report::figure::Figure, stand::Sample};

pub(crate) const RATE: &str = "rate";
pub(crate) const P50: &str = "p50";
pub(crate) const P99: &str = "p99";
pub(crate) const FIRST_PROXY: &str = "CPU of the first daemon";
pub(crate) const SECOND_PROXY: &str = "CPU of the second daemon";
pub(crate) const PATH: &str = "CPU of the whole path";
pub(crate) const AGAINST_RELAYS: &str = "p50 against relays";

/// Ratios against the way without a mesh, in the same round; then plain values, for those who know the machine.
pub(super) fn make(work: &Work, ways: &[Way], rounds: &[Vec<Sample>], figures: &mut Vec<Figure>) {
    for way in ways.iter().filter(|way| work.takes(way.is_relay)) {
        let mut row = Row { work, of: format!("{}, {}", work.name, way.lane.name), figures: &mut *figures };
        let own = every(rounds, way.lane.name);
        if let Some(against) = way.against {
            row.ratios(&own, &every(rounds, against));
        }
        if !work.is_bulk() && way.lane.name == "tunnel" {
            row.ratio(AGAINST_RELAYS, &own, &every(rounds, RELAYS), |sample| sample.outcome.p50_micros);
        }
        row.values(&own);
    }
}

fn every<'a>(rounds: &'a [Vec<Sample>], lane: &str) -> Vec<&'a Sample> {
    rounds.iter().filter_map(|round| round.iter().find(|sample| sample.lane == lane)).collect()
}

struct Row<'a> {
    work: &'a Work,
    of: String,
    figures: &'a mut Vec<Figure>,
}

impl Row<'_> {
    fn ratios(&mut self, own: &[&Sample], direct: &[&Sample]) {
        let work = self.work;
        self.ratio(RATE, own, direct, |sample| units(work, sample) / sample.outcome.seconds);
        if !work.is_bulk() {
            self.ratio(P50, own, direct, |sample| sample.outcome.p50_micros);
            self.ratio(P99, own, direct, |sample| sample.outcome.p99_micros);
        }
        for (place, what) in [FIRST_PROXY, SECOND_PROXY].into_iter().enumerate() {
            if own.iter().all(|sample| sample.proxies.len() > place) {
                let values = own.iter().zip(direct).map(|(own, direct)| {
                    own.proxies[place] / units(work, own) / (direct.path() / units(work, direct))
                });
                self.push(what, "x", values.collect());
            }
        }
        self.ratio(PATH, own, direct, |sample| sample.path() / units(work, sample));
    }

    fn ratio(
        &mut self,
        what: &'static str,
        own: &[&Sample],
        direct: &[&Sample],
        of: impl Fn(&Sample) -> f64,
    ) {
        self.push(what, "x", own.iter().zip(direct).map(|(own, direct)| of(own) / of(direct)).collect());
    }

    fn values(&mut self, own: &[&Sample]) {
        let work = self.work;
        let (rate, scale, unit) = if work.is_bulk() { ("GiB/s", 1.0, "s/GiB") } else { ("1/s", 1e6, "us") };
        let each = |of: &dyn Fn(&Sample) -> f64| own.iter().map(|sample| of(sample)).collect::<Vec<_>>();
        self.push(RATE, rate, each(&|sample| units(work, sample) / sample.outcome.seconds));
        if !work.is_bulk() {
            self.push(P50, "us", each(&|sample| sample.outcome.p50_micros));
            self.push(P99, "us", each(&|sample| sample.outcome.p99_micros));
        }
        for (place, what) in [FIRST_PROXY, SECOND_PROXY].into_iter().enumerate() {
            if own.iter().all(|sample| sample.proxies.len() > place) {
                self.push(what, unit, each(&|sample| sample.proxies[place] / units(work, sample) * scale));
            }
        }
        self.push(PATH, unit, each(&|sample| sample.path() / units(work, sample) * scale));
    }

    fn push(&mut self, what: &'static str, unit: &'static str, values: Vec<f64>) {
        if !values.is_empty() {
            let table = self.work.tables()[usize::from(unit != "x")];
            self.figures.push(Figure { table, of: self.of.clone(), what, unit, values });
        }
    }
}

/// GiB, or what was counted.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn units(work: &Work, sample: &Sample) -> f64 {
    if work.is_bulk() {
        sample.outcome.bytes as f64 / f64::from(1 << 30)
    } else {
        sample.outcome.operations as f64
    }
}
