//! Throughput with one worker thread and with two, against the same traffic without a mesh.

use anyhow::Result;
use serde_json::json;
use testkit::MeshPlan;

use super::Findings;
use crate::{
    load::{
        order::{Direction, Order},
        start::Client,
    },
    options::Options,
    progress,
    report::figure::Figure,
    stand::{Lane, Sample, Stand},
};

const TABLE: &str = "Throughput by workers, against direct";
const NODES: [&str; 2] = ["client", "server"];
const ROUNDS: usize = 5;

pub(crate) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    let with =
        |workers: u32| Stand::with_mesh(options, MeshPlan::new(&NODES).setting("workerThreads", workers));
    let mut stands = [Stand::bare(MeshPlan::new(&NODES))?, with(1)?, with(2)?];
    let mut lanes = Vec::new();
    for (stand, name) in stands.iter_mut().zip(["direct", "1 worker", "2 workers"]) {
        let server = stand.serve("server")?;
        let client = Client::start(stand.mesh.pod("client"))?;
        lanes.push(Lane { name, client, server, proxies: stand.daemons() });
    }
    let (server, millis) =
        (stands.each_ref().map(|stand| stand.ip("server")), if options.quick { 150 } else { 500 });
    for (what, unit) in [("bulk, 4 streams up", "GiB"), ("requests, 64 connections", "requests")] {
        progress::say(&format!("{what}, by workers"));
        let order = |place: usize| match unit {
            "GiB" => Order::Bulk { server: server[place], streams: 4, direction: Direction::Up, millis },
            _ => Order::Requests { server: server[place], connections: 64, millis },
        };
        let mut rounds: Vec<Vec<Sample>> = Vec::new();
        for _ in 0..ROUNDS {
            let each = lanes.iter_mut().enumerate();
            rounds.push(each.map(|(place, lane)| lane.measure(&order(place))).collect::<Result<_>>()?);
        }
        for (place, lane) in lanes.iter().enumerate().skip(1) {
            let values = rounds.iter().map(|round| rate(&round[place]) / rate(&round[0])).collect();
            findings.figures.push(Figure {
                table: TABLE,
                of: what.to_owned(),
                what: lane.name,
                unit: "x",
                values,
            });
        }
        findings.samples.extend(rounds.iter().map(|round| json!({ "workers": what, "samples": round })));
    }
    Ok(())
}

/// Of bytes, or of what was counted.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(sample: &Sample) -> f64 {
    sample.outcome.bytes.max(sample.outcome.operations) as f64 / sample.outcome.seconds
}
