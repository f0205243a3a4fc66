//! The goals, and whether they were reached.

use serde::Serialize;

use super::figure::Figure;

mod list;

use list::GOALS;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) name: String,
    pub(crate) sense: &'static str,
    pub(crate) bound: f64,
    pub(crate) unit: &'static str,
    /// The median; of several figures, the worst.
    pub(crate) measured: Option<f64>,
    pub(crate) reached: Option<bool>,
}

const AT_MOST: &str = "≤";
const AT_LEAST: &str = "≥";

struct Goal {
    name: &'static str,
    sense: &'static str,
    bound: f64,
    unit: &'static str,
    table: &'static str,
    of: &'static [&'static str],
    what: &'static [&'static str],
}

pub(crate) fn judge(figures: &[Figure]) -> Vec<Judged> {
    GOALS.iter().map(|goal| goal.judge(figures)).collect()
}

impl Goal {
    fn judge(&self, figures: &[Figure]) -> Judged {
        let mut medians = Vec::new();
        for (of, what) in self.of.iter().flat_map(|of| self.what.iter().map(move |what| (of, what))) {
            let found = figures.iter().find(|figure| figure.is(self.table, of, what, self.unit));
            medians.extend(found.and_then(Figure::summary).map(|summary| summary.median));
        }
        let worst = if self.sense == AT_MOST { f64::max } else { f64::min };
        let measured = medians.into_iter().reduce(worst);
        // Less than nothing: what was subtracted was not at rest.
        let believed = measured.filter(|it| *it >= 0.0);
        let reached =
            believed.map(|it| if self.sense == AT_MOST { it <= self.bound } else { it >= self.bound });
        Judged {
            name: self.name.to_owned(),
            sense: self.sense,
            bound: self.bound,
            unit: self.unit,
            measured,
            reached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::{memory, traffic};

    fn figure(of: &str, what: &'static str, values: &[f64]) -> Figure {
        Figure { table: traffic::REQUESTS, of: of.to_owned(), what, unit: "x", values: values.to_vec() }
    }

    /// Catches: a goal that is called reached by the better of two daemons, or without a measurement.
    #[test]
    fn the_worst_counts_and_nothing_is_neither() {
        let figures = [
            figure("requests 16, tunnel", traffic::FIRST_PROXY, &[1.0]),
            figure("requests 16, tunnel", traffic::SECOND_PROXY, &[1.0, 2.0, 9.0]),
            figure("requests 16, tunnel", traffic::RATE, &[0.3]),
        ];
        let judged = judge(&figures);
        let of = |name: &str| judged.iter().find(|goal| goal.name.starts_with(name)).unwrap();
        let cpu = of("Requests, 16 connections: CPU");
        assert_eq!((cpu.measured, cpu.reached), (Some(2.0), Some(false)));
        assert_eq!(of("Requests, 16 connections: rate").reached, Some(true));
        assert_eq!(of("RSS without pods").reached, None);
        let below = [Figure {
            table: memory::PODS,
            of: "each more pod".to_owned(),
            what: memory::OWN_EACH,
            unit: "KiB",
            values: vec![-1.0],
        }];
        let judged = judge(&below);
        let pod = judged.iter().find(|goal| goal.name == "A pod").unwrap();
        assert_eq!((pod.measured, pod.reached), (Some(-1.0), None), "less than nothing is no measurement");
    }
}
