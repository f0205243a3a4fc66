//! A large mesh, as a control plane tells of it: with all that it usually says of a pod, and a service for each twenty.

use proto::workload::{
    Locality, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, address::Type,
};

use super::{Known, mesh::resource};

pub const WORKLOADS_PER_SERVICE: u32 = 20;

pub fn pod(number: u32) -> Workload {
    let app = format!("app-{}", number / WORKLOADS_PER_SERVICE);
    let name = format!("{app}-5d8f7c9b6-{number:05x}");
    let [_, b, c, d] = number.to_be_bytes();
    Workload {
        uid: format!("Kubernetes//Pod/default/{name}"),
        name,
        namespace: "default".to_owned(),
        addresses: vec![vec![10, b + 100, c, d].into()],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        trust_domain: "cluster.local".to_owned(),
        service_account: app.clone(),
        node: format!("ip-10-0-{}-1.eu-west-1.compute.internal", number / 30),
        canonical_name: app.clone(),
        canonical_revision: "latest".to_owned(),
        services: [(format!("default/{}", hostname(&app)), PortList { ports: ports() })].into(),
        workload_name: app,
        cluster_id: "Kubernetes".to_owned(),
        network: "network1".to_owned(),
        locality: Some(Locality {
            region: "eu-west-1".to_owned(),
            zone: format!("eu-west-1{}", ["a", "b", "c"][number as usize % 3]),
            subzone: String::new(),
        }),
        ..Workload::default()
    }
}

pub fn service(number: u32) -> Service {
    let name = format!("app-{number}");
    let [_, b, c, d] = number.to_be_bytes();
    Service {
        namespace: "default".to_owned(),
        hostname: hostname(&name),
        addresses: vec![NetworkAddress {
            network: "network1".to_owned(),
            address: vec![172, b, c, d].into(),
            ..NetworkAddress::default()
        }],
        ports: ports(),
        name,
        ..Service::default()
    }
}

/// So many pods, and the services that they are behind.
pub fn known(pods: u32) -> Vec<Known> {
    let services = (0..pods.div_ceil(WORKLOADS_PER_SERVICE)).map(service).map(|service| {
        let name = format!("{}/{}", service.namespace, service.hostname);
        resource(&name, Vec::new(), Type::Service(service))
    });
    let pods = (0..pods).map(pod).map(|pod| resource(&pod.uid.clone(), Vec::new(), Type::Workload(pod)));
    services.chain(pods).collect()
}

fn hostname(app: &str) -> String {
    format!("{app}.default.svc.cluster.local")
}

fn ports() -> Vec<Port> {
    vec![Port { service_port: 80, target_port: 8080, ..Port::default() }]
}
