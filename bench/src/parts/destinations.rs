//! New connections to many destinations at once: cold, when there is no tunnel to any of them, and warm.
//!
//! A destination is cold once for each source, so every round has a client pod of its own.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;
use testkit::MeshPlan;

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

pub(crate) const TABLE: &str = "Many destinations at once";
pub(crate) const TOOK: &str = "all together";
pub(crate) const FIRST: &str = "CPU of the first daemon, each";
pub(crate) const SECOND: &str = "CPU of the second daemon, each";
const PATH: &str = "CPU of the whole path, each";
const P50: &str = "p50";
const P99: &str = "p99";
const ROUNDS: usize = 5;

pub(crate) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    let count = 100;
    let destinations: Vec<String> = (0..count).map(|number| format!("destination{number}")).collect();
    let clients: Vec<String> = (0..ROUNDS).map(|number| format!("client{number}")).collect();
    let plan = || MeshPlan::new(&[&clients.join(" "), &destinations.join(" ")]);
    progress::say(&format!("building {count} destinations, twice"));
    let mut stands = [Stand::bare(plan())?, Stand::with_mesh(options, plan())?];
    let mut ways = Vec::new();
    for (stand, name) in stands.iter_mut().zip(["direct", "tunnel"]) {
        ways.push(Way::of(stand, name, &clients, &destinations)?);
    }
    for what in ["cold", "warm"] {
        progress::say(&format!("{count} destinations, {what}"));
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            rounds.push(ways.iter_mut().map(|way| way.connect(round)).collect::<Result<Vec<Sample>>>()?);
        }
        findings.samples.extend(rounds.iter().map(|round| json!({ "destinations": what, "samples": round })));
        figures(what, &rounds, findings);
    }
    Ok(())
}

struct Way {
    /// One for each round.
    lanes: Vec<Lane>,
    servers: Vec<SocketAddr>,
}

impl Way {
    fn of(
        stand: &mut Stand,
        name: &'static str,
        clients: &[String],
        destinations: &[String],
    ) -> Result<Self> {
        let server = stand.serve_many(&destinations[0], &destinations[1..])?;
        let servers = destinations.iter().map(|pod| SocketAddr::new(stand.ip(pod), port::ECHO)).collect();
        let lane = |pod: &String| {
            let client = Client::start(stand.mesh.pod(pod))?;
            Ok(Lane { name, client, server, proxies: stand.daemons() })
        };
        Ok(Self { lanes: clients.iter().map(lane).collect::<Result<_>>()?, servers })
    }

    fn connect(&mut self, round: usize) -> Result<Sample> {
        let (count, servers) = (self.servers.len(), self.servers.clone());
        self.lanes[round].measure(&Order::Connect { servers, count, at_once: count })
    }
}

/// Each round has the direct way's sample and the tunnel's.
fn figures(what: &str, rounds: &[Vec<Sample>], findings: &mut Findings) {
    let mut push = |of: &str, name, unit, of_round: &dyn Fn(&Sample, &Sample) -> f64| {
        let values = rounds.iter().map(|round| of_round(&round[0], &round[1])).collect();
        findings.figures.push(Figure { table: TABLE, of: of.to_owned(), what: name, unit, values });
    };
    let tunnel = format!("{what}, tunnel");
    push(&tunnel, TOOK, "s", &|_, tunnel| tunnel.outcome.seconds);
    push(&tunnel, FIRST, "ms", &|_, tunnel| each(tunnel, tunnel.proxies[0]));
    push(&tunnel, SECOND, "ms", &|_, tunnel| each(tunnel, tunnel.proxies[1]));
    push(&tunnel, PATH, "ms", &|_, tunnel| each(tunnel, tunnel.path()));
    push(&tunnel, P50, "ms", &|_, tunnel| tunnel.outcome.p50_micros / 1e3);
    push(&tunnel, P99, "ms", &|_, tunnel| tunnel.outcome.p99_micros / 1e3);
    push(&tunnel, TOOK, "x", &|direct, tunnel| tunnel.outcome.seconds / direct.outcome.seconds);
    push(&tunnel, PATH, "x", &|direct, tunnel| tunnel.path() / direct.path());
    let direct = format!("{what}, direct");
    push(&direct, TOOK, "s", &|direct, _| direct.outcome.seconds);
    push(&direct, PATH, "ms", &|direct, _| each(direct, direct.path()));
    push(&direct, P50, "ms", &|direct, _| direct.outcome.p50_micros / 1e3);
    push(&direct, P99, "ms", &|direct, _| direct.outcome.p99_micros / 1e3);
}

/// Of so many seconds, one connection's milliseconds.
#[expect(clippy::cast_precision_loss, reason = "some hundreds")]
fn each(sample: &Sample, seconds: f64) -> f64 {
    seconds * 1e3 / sample.outcome.operations as f64
}
