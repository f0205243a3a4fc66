//! The goals, and whether they were reached.

use serde::Serialize;

use super::figure::Figure;
use crate::parts::{memory, traffic};

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

const EACH_DAEMON: &[&str] = &[traffic::FIRST_PROXY, traffic::SECOND_PROXY];

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
        let reached =
            measured.map(|it| if self.sense == AT_MOST { it <= self.bound } else { it >= self.bound });
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

const GOALS: [Goal; 13] = [
    Goal {
        name: "Bulk, 1 stream: CPU of each daemon per GiB, against the whole direct path's",
        sense: AT_MOST,
        bound: 0.9,
        unit: "x",
        table: traffic::TABLE,
        of: &["bulk 1 up, tunnel", "bulk 1 down, tunnel"],
        what: EACH_DAEMON,
    },
    Goal {
        name: "Requests, 16 connections: CPU of each daemon, against the whole direct path's",
        sense: AT_MOST,
        bound: 1.4,
        unit: "x",
        table: traffic::TABLE,
        of: &["requests 16, tunnel"],
        what: EACH_DAEMON,
    },
    Goal {
        name: "New connections, 16 at once: CPU of each daemon, against the whole direct path's",
        sense: AT_MOST,
        bound: 0.95,
        unit: "x",
        table: traffic::TABLE,
        of: &["connections 16 at once, tunnel"],
        what: EACH_DAEMON,
    },
    Goal {
        name: "Bulk, 1 stream: throughput against direct",
        sense: AT_LEAST,
        bound: 0.45,
        unit: "x",
        table: traffic::TABLE,
        of: &["bulk 1 up, tunnel", "bulk 1 down, tunnel"],
        what: &[traffic::RATE],
    },
    Goal {
        name: "Requests, 16 connections: rate against direct",
        sense: AT_LEAST,
        bound: 0.25,
        unit: "x",
        table: traffic::TABLE,
        of: &["requests 16, tunnel"],
        what: &[traffic::RATE],
    },
    Goal {
        name: "Ping-pong, p50 against a plain relay chain",
        sense: AT_MOST,
        bound: 1.25,
        unit: "x",
        table: traffic::TABLE,
        of: &["ping-pong 1 B, tunnel", "ping-pong 1 KiB, tunnel"],
        what: &[traffic::AGAINST_RELAYS],
    },
    Goal {
        name: "Same node `direct`: CPU of the whole path per GiB, against direct",
        sense: AT_MOST,
        bound: 2.5,
        unit: "x",
        table: traffic::TABLE,
        of: &["bulk 1 up, same node direct", "bulk 1 down, same node direct"],
        what: &[traffic::PATH],
    },
    Goal {
        name: "RSS without pods",
        sense: AT_MOST,
        bound: 8.0,
        unit: "MiB",
        table: memory::PODS,
        of: &["0 pods"],
        what: &[memory::RSS],
    },
    Goal {
        name: "A pod",
        sense: AT_MOST,
        bound: 8.0,
        unit: "KiB",
        table: memory::PODS,
        of: &["each more pod"],
        what: &[memory::RSS_EACH],
    },
    Goal {
        name: "Descriptors of a pod, by role and worker",
        sense: AT_MOST,
        bound: 1.0,
        unit: "",
        table: memory::PODS,
        of: &["each more pod"],
        what: &[memory::DESCRIPTORS_EACH],
    },
    Goal {
        name: "An idle connection, on each node",
        sense: AT_MOST,
        bound: 3.0,
        unit: "KiB",
        table: memory::CONNECTIONS,
        of: &["10000 idle", "1000 idle"],
        what: memory::EACH_NODE,
    },
    Goal {
        name: "The same after it has carried 256 KiB",
        sense: AT_MOST,
        bound: 3.0,
        unit: "KiB",
        table: memory::CONNECTIONS,
        of: &["10000 after traffic", "1000 after traffic"],
        what: memory::EACH_NODE,
    },
    Goal {
        name: "Kept 15 s after 10,000 have closed",
        sense: AT_MOST,
        bound: 2.0,
        unit: "MiB",
        table: memory::CONNECTIONS,
        of: &["10000 closed"],
        what: memory::KEPT,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(of: &str, what: &'static str, values: &[f64]) -> Figure {
        Figure { table: traffic::TABLE, of: of.to_owned(), what, unit: "x", values: values.to_vec() }
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
    }
}
