//! The files that daemons read. JSON is YAML too.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Mesh, MeshPlan, PodPlan};
use crate::{Node, Pod, Topology};

/// In one piece: a reader sees the old file or the new one.
pub(super) fn write(path: &Path, value: &Value) -> Result<()> {
    let staged = path.with_extension("new");
    fs::write(&staged, serde_json::to_string_pretty(value)?)
        .and_then(|()| fs::rename(&staged, path))
        .with_context(|| format!("writing {}", path.display()))
}

pub(super) fn state(topology: &Topology, plan: &MeshPlan) -> Value {
    let pods = topology.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)));
    let workloads: Vec<Value> = pods
        .filter(|(_, pod)| plan.of(pod.name()).in_state)
        .map(|(node, pod)| workload(node, pod, plan))
        .chain(plan.workloads.iter().cloned())
        .collect();
    json!({ "workloads": workloads, "services": plan.services, "policies": plan.policies })
}

fn workload(node: &Node, pod: &Pod, plan: &MeshPlan) -> Value {
    let name = pod.name();
    let pod_plan = plan.of(name);
    let mut workload = json!({
        "uid": Mesh::uid(name),
        "name": name,
        "namespace": "default",
        "serviceAccount": name,
        "trustDomain": "cluster.local",
        "workloadIps": pod.ips(),
        "protocol": if pod_plan.enrolled || pod_plan.foreign { "HBONE" } else { "TCP" },
        "node": format!("node{}", node.number),
        "clusterId": "Kubernetes",
        "canonicalName": name,
        "canonicalRevision": "latest",
        "workloadName": name,
        "authorizationPolicies": pod_plan.policies,
    });
    for (field, value) in pod_plan.workload {
        workload[field] = value;
    }
    workload
}

pub(super) fn pods(node: &Node, plan: &MeshPlan) -> Value {
    let enrolled = node.pods.iter().filter(|pod| is_served(&plan.of(pod.name())) && is_in_mesh(pod));
    let pods: Vec<Value> = enrolled.map(|pod| local_pod(pod, plan)).collect();
    json!({ "pods": pods })
}

fn is_served(plan: &PodPlan) -> bool {
    plan.enrolled && !plan.foreign
}

/// A second daemon's own pod is none of the mesh.
fn is_in_mesh(pod: &Pod) -> bool {
    !pod.name().ends_with("daemon")
}

fn local_pod(pod: &Pod, plan: &MeshPlan) -> Value {
    let pod_plan = plan.of(pod.name());
    json!({
        "uid": Mesh::uid(pod.name()),
        "netns": pod.netns(),
        "ips": pod.ips(),
        "failMode": if pod_plan.fail_open { "open" } else { "closed" },
        "mtls": pod_plan.strict.then_some("strict"),
        "excludeOutboundPorts": pod_plan.exclude_outbound_ports,
        "excludeInboundPorts": pod_plan.exclude_inbound_ports,
    })
}
