//! Endpoints that are no pods: something outside of the mesh that a service leads to.

use std::{collections::BTreeMap, net::IpAddr};

use proto::workload::{Port, PortList, TunnelProtocol, Workload, WorkloadStatus, WorkloadType};

use super::{Cluster, octets, service::app_protocol};
use crate::facts::{Service, Slice};

/// A workload for each endpoint, if the service is known.
pub(crate) fn endpoints(cluster: &Cluster, slice: &Slice, service: Option<&Service>) -> Vec<Workload> {
    let Some(service) = service.filter(|service| !service.external_name) else { return Vec::new() };
    let (namespace, name) = &slice.key;
    let ports = service.ports.iter().filter_map(|port| {
        let (_, target) = slice.ports.iter().find(|(name, _)| *name == port.name)?;
        let app_protocol = app_protocol(port).into();
        Some(Port { service_port: port.port.into(), target_port: (*target).into(), app_protocol })
    });
    let ports = PortList { ports: ports.collect() };
    let service_name = cluster.service_name(namespace, &service.key.1);
    let workload = |endpoint: &crate::facts::Endpoint| {
        let status = if endpoint.ready { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
        Workload {
            uid: format!(
                "{}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{}",
                cluster.id, endpoint.address
            ),
            name: name.clone(),
            namespace: namespace.clone(),
            addresses: vec![octets(endpoint.address)],
            network: cluster.network.clone(),
            tunnel_protocol: TunnelProtocol::None.into(),
            trust_domain: cluster.trust_domain.clone(),
            service_account: "default".to_owned(),
            node: endpoint.node.clone(),
            canonical_name: service.key.1.clone(),
            canonical_revision: "latest".to_owned(),
            workload_type: WorkloadType::Pod.into(),
            workload_name: name.clone(),
            status: status.into(),
            cluster_id: cluster.id.clone(),
            services: [(service_name.clone(), ports.clone())].into(),
            ..Workload::default()
        }
    };
    // An address may stand there twice: while one of its places is ready, it is.
    let mut endpoints: BTreeMap<IpAddr, &crate::facts::Endpoint> = BTreeMap::new();
    for endpoint in &slice.endpoints {
        let known = endpoints.entry(endpoint.address).or_insert(endpoint);
        if endpoint.ready && !known.ready {
            *known = endpoint;
        }
    }
    endpoints.into_values().map(workload).collect()
}
