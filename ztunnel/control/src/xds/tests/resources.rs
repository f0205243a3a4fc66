//! What a control plane sends.

use std::{net::IpAddr, sync::Arc};

use model::{Snapshot, TrustDomain};
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::{Any, DeltaDiscoveryResponse, Node, Resource},
    prost::Message,
    security::{self, Authorization},
    workload::{self, Address, Service, Workload, address::Type},
};

use crate::xds::{holding::Holding, protocol::Protocol};

pub(super) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(super) fn protocol() -> Protocol {
    of_root(None)
}

pub(super) fn of_root(root_namespace: Option<&str>) -> Protocol {
    let holding = Holding::new(trust_domain(), root_namespace.map(ToOwned::to_owned));
    Protocol::new(Node::default(), false, holding)
}

pub(super) fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/default/{name}")
}

pub(super) fn bytes(ip: &str) -> hyper::body::Bytes {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec().into(),
        IpAddr::V6(ip) => ip.octets().to_vec().into(),
    }
}

pub(super) fn workload(name: &str, ip: &str) -> Workload {
    Workload {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        addresses: vec![bytes(ip)],
        tunnel_protocol: workload::TunnelProtocol::Hbone.into(),
        trust_domain: "cluster.local".to_owned(),
        service_account: format!("sa-{name}"),
        uid: uid(name),
        ..Workload::default()
    }
}

pub(super) fn service(name: &str, ip: &str) -> Service {
    Service {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        hostname: format!("{name}.default.svc.cluster.local"),
        addresses: vec![workload::NetworkAddress { address: bytes(ip), ..Default::default() }],
        ports: vec![workload::Port { service_port: 80, target_port: 8080, ..Default::default() }],
        ..Service::default()
    }
}

/// Of the namespace `default`, with one match.
pub(super) fn policy(name: &str, action: security::Action, m: security::Match) -> Authorization {
    let clauses = vec![security::Clause { matches: vec![m] }];
    Authorization {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        scope: security::Scope::Namespace.into(),
        action: action.into(),
        rules: vec![security::Rule { clauses }],
        ..Authorization::default()
    }
}

pub(super) fn of_workload(workload: Workload, version: &str) -> Resource {
    let name = workload.uid.clone();
    address(&name, version, Type::Workload(workload))
}

pub(super) fn of_service(service: Service, version: &str) -> Resource {
    let name = format!("{}/{}", service.namespace, service.hostname);
    address(&name, version, Type::Service(service))
}

fn address(name: &str, version: &str, content: Type) -> Resource {
    resource(ADDRESS_TYPE, name, version, Address { r#type: Some(content) }.encode_to_vec())
}

pub(super) fn of_policy(policy: &Authorization, version: &str) -> Resource {
    let name = format!("{}/{}", policy.namespace, policy.name);
    resource(AUTHORIZATION_TYPE, &name, version, policy.encode_to_vec())
}

pub(super) fn resource(type_url: &str, name: &str, version: &str, value: Vec<u8>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any { type_url: type_url.to_owned(), value: value.into() }),
        aliases: Vec::new(),
    }
}

pub(super) fn addresses(nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    response(ADDRESS_TYPE, nonce, resources)
}

pub(super) fn policies(nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    response(AUTHORIZATION_TYPE, nonce, resources)
}

fn response(type_url: &str, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        system_version_info: "v1".to_owned(),
        ..DeltaDiscoveryResponse::default()
    }
}

pub(super) fn removal(nonce: &str, names: &[&str]) -> DeltaDiscoveryResponse {
    let removed_resources = names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryResponse { removed_resources, ..addresses(nonce, Vec::new()) }
}

pub(super) fn known(snapshot: &Snapshot) -> Vec<&Arc<model::Workload>> {
    snapshot.workloads().collect()
}
