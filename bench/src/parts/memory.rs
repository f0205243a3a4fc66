//! The daemon at rest: what it holds for pods, and what for connections that carry nothing.

use std::{thread::sleep, time::Duration};

use anyhow::Result;
use serde_json::json;
use testkit::MeshPlan;

use super::Findings;
use crate::{
    measure::memory::{self, Memory},
    options::Options,
    progress,
    report::figure::Figure,
    stand::Stand,
};

mod connections;
mod pods;
pub(crate) mod sidecars;
pub(crate) mod workloads;

pub(crate) use connections::{EACH_NODE, KEPT, TABLE as CONNECTIONS};
pub(crate) use pods::{DESCRIPTORS_EACH, OWN_EACH, TABLE as PODS};

pub(crate) const RSS: &str = "resident";
const PSS: &str = "proportional";
const ANONYMOUS: &str = "anonymous";
/// What a change sets off has ended by then.
const SETTLING: Duration = Duration::from_secs(2);
/// By then a daemon that has nothing to do has given back what it does not need: it looks every five seconds, and once it has
/// rested for as long.
const AT_REST: Duration = Duration::from_secs(12);
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    pods::measure(options, findings)?;
    connections::measure(options, findings)?;
    workloads::measure(options, findings)
}

/// Five readings over a second: what wobbles shows.
fn read(process: u32, findings: &mut Findings, of: &str) -> Result<Vec<Memory>> {
    let mut readings = Vec::new();
    for _ in 0..5 {
        sleep(Duration::from_millis(200));
        readings.push(memory::of(process)?);
    }
    findings.samples.push(json!({ "memory": of, "process": process, "readings": readings }));
    Ok(readings)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn bytes(of: u64) -> f64 {
    of as f64
}

fn median(values: &[f64]) -> f64 {
    crate::report::statistics::Summary::of(values).map_or(0.0, |summary| summary.median)
}

fn resident(readings: &[Memory]) -> f64 {
    median(&readings.iter().map(|memory| bytes(memory.resident)).collect::<Vec<_>>())
}

fn anonymous(readings: &[Memory]) -> f64 {
    median(&readings.iter().map(|memory| bytes(memory.anonymous)).collect::<Vec<_>>())
}
