//! The same orders by every way, one after the other, round by round: A/B/A/B, so that what the machine does meanwhile
//! hits all of them alike. A ratio is of one round.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use serde_json::json;
use testkit::MeshPlan;

use super::Findings;
use crate::{
    load::start::Client,
    options::Options,
    progress,
    stand::{Lane, Sample, Stand},
};

mod figures;
mod work;

pub(crate) use figures::{AGAINST_RELAYS, FIRST_PROXY, PATH, RATE, SECOND_PROXY};
pub(crate) use work::{BULK, CONNECTIONS, PING_PONG, REQUESTS};
use work::{Target, Work};

const NODES: [&str; 2] = ["client neighbour", "server"];
const RELAY_PORT: u16 = 9000;
const ROUNDS: usize = 5;

/// A way, and what it is measured against.
pub(super) struct Way {
    lane: Lane,
    target: Target,
    /// `None`: others are measured against this one.
    against: Option<&'static str>,
    is_relay: bool,
}

const ACROSS: &str = "across nodes";
const SAME_NODE: &str = "on one node";
const OUTSIDE: &str = "to the outside";
const RELAYS: &str = "relays";

pub(crate) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    progress::say("building the nodes");
    let mut bare = Stand::bare(MeshPlan::new(&NODES))?;
    let mut mesh = Stand::with_mesh(options, MeshPlan::new(&NODES))?;
    let mut ways = ways_of(&mut bare, [ACROSS, SAME_NODE, OUTSIDE], [None; 3])?;
    let names = ["tunnel", "same node tunnel", "passthrough"];
    ways.extend(ways_of(&mut mesh, names, [Some(ACROSS), Some(SAME_NODE), Some(OUTSIDE)])?);
    let mut near = past_the_network(options)?;
    if let Some(stand) = &mut near {
        let server = stand.serve("neighbour")?;
        let direct = way(stand, "same node direct", server, stand.ip("neighbour"), stand.daemons())?;
        ways.push(direct.against(SAME_NODE));
    }
    ways.push(relays(&mut bare, ways[0].lane.server)?);
    let wanted = |work: &Work| options.only.as_ref().is_none_or(|only| work.name.contains(only.as_str()));
    for work in work::all(options.quick).into_iter().filter(wanted) {
        progress::say(&work.name);
        let rounds = all_rounds(&work, &mut ways)?;
        findings
            .samples
            .extend(rounds.iter().flatten().map(|sample| json!({ "work": work.name, "sample": sample })));
        figures::make(&work, &ways, &rounds, &mut findings.figures);
    }
    Ok(())
}

/// Neighbours past the network, which is a setting of our own.
fn past_the_network(options: &Options) -> Result<Option<Stand>> {
    let plan = || MeshPlan::new(&NODES[..1]).setting("sameNode", "direct");
    options.proxy.is_none().then(|| Stand::with_mesh(options, plan())).transpose()
}

fn all_rounds(work: &Work, ways: &mut [Way]) -> Result<Vec<Vec<Sample>>> {
    // What is made once, such as tunnels, is made before.
    for way in ways.iter_mut().filter(|way| work.takes(way.is_relay)) {
        way.lane.client.order(&work.warm_up(&way.target))?;
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let taking_part = ways.iter_mut().filter(|way| work.takes(way.is_relay));
        rounds
            .push(taking_part.map(|way| way.lane.measure(&work.order(&way.target))).collect::<Result<_>>()?);
    }
    Ok(rounds)
}

/// Across nodes, on one node, and to where there is no mesh.
fn ways_of(
    stand: &mut Stand,
    names: [&'static str; 3],
    against: [Option<&'static str>; 3],
) -> Result<Vec<Way>> {
    let servers = [stand.serve("server")?, stand.serve("neighbour")?, stand.serve_outside()?];
    let ips = [stand.ip("server"), stand.ip("neighbour"), stand.outside_ip()];
    let daemons = stand.daemons();
    let passed = [
        daemons.clone(),
        daemons.first().copied().into_iter().collect(),
        daemons.first().copied().into_iter().collect(),
    ];
    let mut ways = Vec::new();
    for (((name, server), (ip, proxies)), against) in
        names.into_iter().zip(servers).zip(ips.into_iter().zip(passed)).zip(against)
    {
        ways.push(Way { against, ..way(stand, name, server, ip, proxies)? });
    }
    Ok(ways)
}

fn way(stand: &Stand, name: &'static str, server: u32, ip: IpAddr, proxies: Vec<u32>) -> Result<Way> {
    let client = Client::start(stand.mesh.pod("client"))?;
    Ok(Way {
        lane: Lane { name, client, server, proxies },
        target: Target::at(ip),
        against: None,
        is_relay: false,
    })
}

/// As many hops as through the mesh: each pod has its relay on loopback, and they meet on the wire.
fn relays(bare: &mut Stand, server: u32) -> Result<Way> {
    let here = |ip| SocketAddr::new(ip, RELAY_PORT);
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let application = SocketAddr::new(loopback, crate::load::order::port::ECHO);
    let far = bare.relay("server", here(bare.ip("server")), application)?;
    let near = bare.relay("client", here(loopback), here(bare.ip("server")))?;
    let mut way = way(bare, RELAYS, server, loopback, vec![near, far])?.against(ACROSS);
    way.target.echo = here(loopback);
    way.is_relay = true;
    Ok(way)
}

impl Way {
    fn against(self, name: &'static str) -> Self {
        Self { against: Some(name), ..self }
    }
}
