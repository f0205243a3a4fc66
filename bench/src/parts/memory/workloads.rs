//! By the number of workloads that a control plane tells of; one pod is enrolled.

use std::thread::sleep;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    ANONYMOUS, AT_REST, Figure, Findings, KIB, MIB, MeshPlan, Options, RSS, SETTLING, Stand, bytes, progress,
    read, resident,
};
use crate::stand::settle;

pub(crate) const TABLE: &str = "Memory by known workloads";
const EACH: &str = "resident, each";

pub(super) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    let counts: &[u32] = if options.quick { &[0, 10_000] } else { &[0, 10_000, 100_000] };
    let mut stand = Stand::behind_a_control_plane(options, MeshPlan::new(&["client"]))?;
    let mut empty = None;
    sleep(AT_REST);
    for &count in counts {
        let of = format!("{count} workloads");
        progress::say(&of);
        stand.tell(|plan| plan.workloads = (0..count).map(workload).collect())?;
        let process = stand.mesh.daemon(1).id();
        settle(process)?;
        sleep(SETTLING);
        let readings = read(process, findings, &of)?;
        let held = resident(&readings);
        let before = *empty.get_or_insert(held);
        let mut push = |what, unit, values| {
            findings.figures.push(Figure { table: TABLE, of: of.clone(), what, unit, values });
        };
        push(RSS, "MiB", readings.iter().map(|memory| bytes(memory.resident) / MIB).collect());
        push(ANONYMOUS, "MiB", readings.iter().map(|memory| bytes(memory.anonymous) / MIB).collect());
        if count > 0 {
            push(EACH, "KiB", vec![(held - before) / KIB / f64::from(count)]);
        }
    }
    Ok(())
}

/// As large as pods of a real cluster are described: names, identity, node, one address of each family.
pub(crate) fn workload(number: u32) -> Value {
    let (high, low) = (number >> 8, number & 0xff);
    let name = format!("application-{number}-7d4b9c6f5d-x{low}");
    json!({
        "uid": format!("Kubernetes//Pod/namespace-{}/{name}", number % 100),
        "name": name,
        "namespace": format!("namespace-{}", number % 100),
        "serviceAccount": format!("application-{}", number % 1000),
        "trustDomain": "cluster.local",
        "workloadIps": [format!("172.{}.{}.{low}", 16 + (high >> 8), high & 0xff), format!("fd02::{:x}:{:x}", number >> 16, number & 0xffff)],
        "protocol": "HBONE",
        "node": format!("node-{}", number % 500),
        "clusterId": "Kubernetes",
        "canonicalName": format!("application-{}", number % 1000),
        "canonicalRevision": "latest",
        "workloadName": format!("application-{}", number % 1000),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// A control plane that is told of an address which is none ends the part.
    #[test]
    fn every_workload_has_addresses() {
        for number in [0, 65_535, 65_536, 99_999] {
            let workload = workload(number);
            let ips = workload["workloadIps"].as_array().unwrap();
            assert!(ips.iter().all(|ip| ip.as_str().unwrap().parse::<IpAddr>().is_ok()), "{ips:?}");
        }
    }
}
