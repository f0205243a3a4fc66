//! One way from a client to a server, and everybody who works on it.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    load::{
        order::{Order, Outcome},
        start::Client,
    },
    measure::processor,
    progress,
};

const ATTEMPTS: usize = 3;

/// Its processes are all that the traffic passes.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    pub(crate) server: u32,
    /// In the order in which the traffic meets them.
    pub(crate) proxies: Vec<u32>,
}

/// What one order took, in seconds on the processor.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) lane: &'static str,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    pub(crate) client: f64,
    pub(crate) server: f64,
    pub(crate) proxies: Vec<f64>,
    /// Of the whole machine, and most of it this traffic's.
    pub(crate) softirq: f64,
}

impl Lane {
    /// What fails is told in the report and measured again.
    pub(crate) fn measure(&mut self, order: &Order) -> Result<Sample> {
        for _ in 1..ATTEMPTS {
            match self.measure_once(order) {
                Err(error) => progress::failed(&format!("{}: {error}", self.name)),
                sample => return sample,
            }
        }
        self.measure_once(order).with_context(|| format!("{}, for the third time", self.name))
    }

    fn measure_once(&mut self, order: &Order) -> Result<Sample> {
        let softirq = processor::ksoftirqd()?;
        let groups: Vec<Vec<u32>> = [vec![self.client.id()], vec![self.server], softirq]
            .into_iter()
            .chain(self.proxies.iter().map(|proxy| vec![*proxy]))
            .collect();
        let clocks = || groups.iter().map(|group| processor::seconds_of(group)).collect::<Result<Vec<_>>>();
        let before = clocks()?;
        let outcome = self.client.order(order)?;
        let mut took = clocks()?.into_iter().zip(before).map(|(after, before)| after - before);
        let mut next = || took.next().unwrap_or_default();
        let (client, server, softirq) = (next(), next(), next());
        Ok(Sample { lane: self.name, outcome, client, server, softirq, proxies: took.collect() })
    }
}

impl Sample {
    /// Everybody on the way, ends included.
    pub(crate) fn path(&self) -> f64 {
        self.client + self.server + self.softirq + self.proxies.iter().sum::<f64>()
    }
}
