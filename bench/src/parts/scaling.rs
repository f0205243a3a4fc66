//! Whether what a new connection costs the daemons stays the same as a node and its mesh grow. Two meshes stand side by
//! side: a small one that stays as it is, and one that grows; each ratio is of one round.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::MeshPlan;

use super::{Findings, memory::workloads::workload};
use crate::{
    load::{
        order::{Order, port},
        start::Client,
    },
    options::Options,
    progress,
    report::figure::Figure,
    stand::{Lane, Sample, Stand, settle},
};

pub(crate) const TABLE: &str = "Cost of a new connection as the mesh grows";
const FIRST: &str = "CPU of the first daemon";
const SECOND: &str = "CPU of the second daemon";
const ROUNDS: usize = 5;

pub(crate) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    let most = if options.quick { 10 } else { 100 };
    let pods: Vec<String> = (1..most).map(|number| format!("pod{number}")).collect();
    let first_node = format!("client holder {}", pods.join(" "));
    let left_out =
        |plan, pod: &String| MeshPlan::pod(plan, pod, |pod| (pod.enrolled, pod.in_state) = (false, false));
    let mut small = Side::start(options, "small", MeshPlan::new(&["client holder", "server"]))?;
    let plan = pods.iter().fold(MeshPlan::new(&[&first_node, "server"]), left_out);
    let mut large = Side::start(options, "large", plan)?;
    let factors: Vec<u32> = if options.quick { vec![1, 10] } else { vec![1, 10, 100] };
    // The control plane of the test kit tells of no policies.
    for &factor in factors.iter().filter(|_| options.proxy.is_none()) {
        large.grow_policies(factor)?;
        compare(&format!("{} policies", 10 * factor), &mut small, &mut large, options, findings)?;
    }
    large.grow_policies(1)?;
    for &factor in &factors[1..] {
        large.stand.tell(|plan| plan.workloads = (0..100 * factor).map(workload).collect())?;
        compare(&format!("{} workloads", 100 * factor), &mut small, &mut large, options, findings)?;
    }
    large.stand.tell(|plan| plan.workloads.clear())?;
    for &factor in &factors[1..] {
        large.hold(10 * factor as usize)?;
        compare(&format!("{} held connections", 10 * factor), &mut small, &mut large, options, findings)?;
    }
    large.holder.order(&Order::Release)?;
    for &factor in &factors[1..] {
        large.stand.enrol(&pods[..factor as usize - 1])?;
        compare(&format!("{factor} pods more"), &mut small, &mut large, options, findings)?;
    }
    Ok(())
}

/// A mesh, and who measures it.
struct Side {
    lane: Lane,
    holder: Client,
    server: SocketAddr,
    held: usize,
    stand: Stand,
}

impl Side {
    fn start(options: &Options, name: &'static str, plan: MeshPlan) -> Result<Self> {
        let mut stand =
            Stand::with_mesh(options, (0..10).fold(plan, |plan, number| plan.policy(policy(number))))?;
        let server = stand.serve("server")?;
        let [client, holder] = ["client", "holder"].map(|pod| Client::start(stand.mesh.pod(pod)));
        let lane = Lane { name, client: client?, server, proxies: stand.daemons() };
        let server = SocketAddr::new(stand.ip("server"), port::ECHO);
        Ok(Self { lane, holder: holder?, server, held: 0, stand })
    }

    fn grow_policies(&mut self, factor: u32) -> Result<()> {
        self.stand.tell(|plan| plan.policies = (0..10 * factor).map(policy).collect())
    }

    fn hold(&mut self, count: usize) -> Result<()> {
        let more = count - self.held;
        self.held = count;
        self.holder.order(&Order::Hold { server: self.server, count: more }).map(drop)
    }

    fn connect(&mut self, count: usize) -> Result<Sample> {
        self.lane.measure(&Order::Connect { servers: vec![self.server], count, at_once: 16 })
    }
}

fn compare(
    of: &str,
    small: &mut Side,
    large: &mut Side,
    options: &Options,
    findings: &mut Findings,
) -> Result<()> {
    progress::say(of);
    for daemon in large.stand.daemons() {
        settle(daemon)?;
    }
    let count = if options.quick { 150 } else { 600 };
    small.connect(16)?;
    large.connect(16)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((small.connect(count)?, large.connect(count)?));
    }
    for (place, what) in [FIRST, SECOND].into_iter().enumerate() {
        let ratio = |(small, large): &(Sample, Sample)| large.proxies[place] / small.proxies[place];
        let values = rounds.iter().map(ratio).collect();
        findings.figures.push(Figure { table: TABLE, of: of.to_owned(), what, unit: "x", values });
    }
    findings
        .samples
        .extend(rounds.iter().map(|(small, large)| json!({ "scaling": of, "small": small, "large": large })));
    Ok(())
}

/// It concerns every workload of the namespace, and nobody of those who connect here.
fn policy(number: u32) -> Value {
    json!({
        "name": format!("deny-{number}"), "namespace": "default", "scope": "Namespace", "action": "Deny",
        "rules": [[[{ "principals": [{ "Exact": format!("cluster.local/ns/elsewhere/sa/stranger-{number}") }] }]]]
    })
}
