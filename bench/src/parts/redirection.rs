//! What it takes to get a connection to a local listener: nothing, the eBPF programs, or the rules of netfilter that
//! istio-cni makes. In each case the listener is in the client's own pod and echoes a byte.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;
use testkit::{MeshPlan, cni};

use super::Findings;
use crate::{
    load::{
        order::{Order, port},
        start::Client,
    },
    options::Options,
    progress,
    report::figure::Figure,
    stand::{Lane, Sample, Stand},
};

const TABLE: &str = "Redirection alone, against none";
const PLAIN: &str = "Redirection alone, plain values";
const ROUNDS: usize = 5;
const POD: &str = "client";
/// Where the rules send connections.
const REDIRECTED_TO: u16 = 15001;
/// Nobody is there: whoever answers was steered to.
const ELSEWHERE: ([u8; 4], u16) = ([198, 51, 100, 1], 80);

struct Way {
    lane: Lane,
    target: SocketAddr,
}

pub(crate) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    let mut stands = Vec::new();
    for _ in 0..3 {
        stands.push(Stand::bare(MeshPlan::new(&[POD]))?);
    }
    let [nothing, steered, rules] = stands.as_mut_slice() else { return Ok(()) };
    let own = SocketAddr::from(([127, 0, 0, 1], port::ECHO));
    cni::redirect(rules.mesh.pod(POD))?;
    let server = nothing.serve(POD)?;
    let mut ways = vec![way(nothing, "nothing", server, own)?];
    let server = steered.steer(POD)?;
    ways.push(way(steered, "eBPF programs", server, ELSEWHERE.into())?);
    let server = rules.echo_at(POD, REDIRECTED_TO)?;
    ways.push(way(rules, "rules of netfilter", server, ELSEWHERE.into())?);
    progress::say("connecting to a local listener");
    let count = if options.quick { 500 } else { 2000 };
    let order = |way: &Way, count| Order::Connect { servers: vec![way.target], count, at_once: 1 };
    for way in &mut ways {
        way.lane.client.order(&order(way, 10))?;
    }
    let mut rounds: Vec<Vec<Sample>> = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(ways.iter_mut().map(|way| way.lane.measure(&order(way, count))).collect::<Result<_>>()?);
    }
    figures(&ways, &rounds, findings);
    findings.samples.extend(rounds.iter().map(|round| json!({ "redirection": round })));
    Ok(())
}

fn way(stand: &Stand, name: &'static str, server: u32, target: SocketAddr) -> Result<Way> {
    let client = Client::start(stand.mesh.pod(POD))?;
    Ok(Way { lane: Lane { name, client, server, proxies: Vec::new() }, target })
}

fn figures(ways: &[Way], rounds: &[Vec<Sample>], findings: &mut Findings) {
    for (place, way) in ways.iter().enumerate() {
        for (what, of) in [("p50", p50 as fn(&Sample) -> f64), ("CPU of both ends", cpu)] {
            let mut push = |table, unit, values| {
                findings.figures.push(Figure { table, of: way.lane.name.to_owned(), what, unit, values });
            };
            if place > 0 {
                push(TABLE, "x", rounds.iter().map(|round| of(&round[place]) / of(&round[0])).collect());
            }
            push(PLAIN, "us", rounds.iter().map(|round| of(&round[place])).collect());
        }
    }
}

fn p50(sample: &Sample) -> f64 {
    sample.outcome.p50_micros
}

/// Of one connection, in microseconds.
#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn cpu(sample: &Sample) -> f64 {
    sample.path() * 1e6 / sample.outcome.operations as f64
}
