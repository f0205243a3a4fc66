//! A pod.

use proto::workload::{
    Locality, NetworkMode, Port, PortList, TunnelProtocol, Workload, WorkloadStatus, WorkloadType,
};

use super::{Cluster, octets, service::app_protocol};
use crate::facts::{Labels, Node, Owner, Pod, Service, TargetPort};

/// What of its surroundings a pod's resource depends on.
pub(crate) struct PodSurroundings<'a> {
    /// In the mesh.
    pub(crate) is_enrolled: bool,
    pub(crate) node: Option<&'a Node>,
    /// That select it.
    pub(crate) services: Vec<&'a Service>,
    /// `namespace/name` of those with a selector that takes it.
    pub(crate) policies: Vec<String>,
}

/// Nothing as long as it has no address, and when it has ended: the address may be another's by then.
pub(crate) fn workload(cluster: &Cluster, pod: &Pod, around: PodSurroundings<'_>) -> Option<Workload> {
    if pod.ended || pod.addresses.is_empty() {
        return None;
    }
    let (namespace, name) = &pod.key;
    let (workload_name, workload_type) = match &pod.owner {
        Owner::Deployment(name) => (name, WorkloadType::Deployment),
        Owner::Job(name) => (name, WorkloadType::Job),
        Owner::CronJob(name) => (name, WorkloadType::Cronjob),
        Owner::Pod => (name, WorkloadType::Pod),
    };
    let services = around.services.iter().map(|service| {
        let (namespace, name) = &service.key;
        (cluster.service_name(namespace, name), ports(service, pod))
    });
    let tunnel = if around.is_enrolled { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    let status = if pod.ready { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
    let mode = if pod.host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard };
    Some(Workload {
        uid: cluster.pod_uid(namespace, name),
        name: name.clone(),
        namespace: namespace.clone(),
        addresses: pod.addresses.iter().map(|address| octets(*address)).collect(),
        network: cluster.network.clone(),
        tunnel_protocol: tunnel.into(),
        trust_domain: cluster.trust_domain.clone(),
        service_account: pod.service_account.clone(),
        node: pod.node.clone(),
        canonical_name: canonical_name(&pod.labels).unwrap_or(workload_name).clone(),
        canonical_revision: canonical_revision(&pod.labels),
        workload_type: workload_type.into(),
        workload_name: workload_name.clone(),
        authorization_policies: around.policies,
        status: status.into(),
        cluster_id: cluster.id.clone(),
        services: services.collect(),
        locality: around.node.and_then(locality),
        network_mode: mode.into(),
        ..Workload::default()
    })
}

/// What a named target is at this pod. A port that it does not have is left out.
fn ports(service: &Service, pod: &Pod) -> PortList {
    let ports = service.ports.iter().filter_map(|port| {
        let target = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => *pod.ports.get(name)?,
        };
        let app_protocol = app_protocol(port).into();
        Some(Port { service_port: port.port.into(), target_port: target.into(), app_protocol })
    });
    PortList { ports: ports.collect() }
}

pub(super) fn locality(node: &Node) -> Option<Locality> {
    let Node { region, zone, subzone, .. } = node.clone();
    let is_known = !(region.is_empty() && zone.is_empty() && subzone.is_empty());
    is_known.then_some(Locality { region, zone, subzone })
}

fn canonical_name(labels: &Labels) -> Option<&String> {
    let names = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    names.iter().find_map(|name| labels.get(*name)).filter(|name| !name.is_empty())
}

fn canonical_revision(labels: &Labels) -> String {
    let names = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
    let found = names.iter().find_map(|name| labels.get(*name)).filter(|revision| !revision.is_empty());
    found.map_or("latest", String::as_str).to_owned()
}
