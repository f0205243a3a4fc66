//! A service.

use proto::workload::{
    AppProtocol, IpFamilies, LoadBalancing, Port, Service,
    load_balancing::{HealthPolicy, Mode, Scope},
};

use super::Cluster;
use crate::facts::{self, ServicePort, TargetPort};

/// Names for something outside are DNS's to resolve.
pub(crate) fn service(cluster: &Cluster, service: &facts::Service) -> Option<Service> {
    if service.external_name {
        return None;
    }
    let (namespace, name) = &service.key;
    Some(Service {
        name: name.clone(),
        namespace: namespace.clone(),
        hostname: cluster.hostname(namespace, name),
        addresses: service.addresses.iter().map(|address| cluster.network_address(*address)).collect(),
        ports: service.ports.iter().map(port).collect(),
        load_balancing: load_balancing(service),
        ip_families: families(&service.families).into(),
        canonical: true,
        ..Service::default()
    })
}

/// A named target is another number at each workload, which says it itself.
fn port(port: &ServicePort) -> Port {
    let target = match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => 0,
    };
    Port {
        service_port: port.port.into(),
        target_port: target.into(),
        app_protocol: app_protocol(port).into(),
    }
}

/// By the field, else by what the port's name begins with.
pub(super) fn app_protocol(port: &ServicePort) -> AppProtocol {
    let named = port.name.split('-').next().unwrap_or_default();
    match port.protocol.as_deref().unwrap_or(named).to_ascii_lowercase().as_str() {
        "http" => AppProtocol::Http11,
        "http2" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "tls" | "https" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}

fn load_balancing(service: &facts::Service) -> Option<LoadBalancing> {
    let near = [Scope::Network, Scope::Region, Scope::Zone];
    let (scopes, mode) = if service.local_only {
        (vec![Scope::Node], Mode::Strict)
    } else {
        match service.distribution.as_deref() {
            Some("PreferClose" | "PreferSameZone") => (near.to_vec(), Mode::Failover),
            Some("PreferSameNode") => ([&near[..], &[Scope::Subzone, Scope::Node]].concat(), Mode::Failover),
            _ => (Vec::new(), Mode::UnspecifiedMode),
        }
    };
    if scopes.is_empty() && !service.publishes_unready {
        return None;
    }
    let health = if service.publishes_unready { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
    let routing_preference = scopes.into_iter().map(i32::from).collect();
    Some(LoadBalancing { routing_preference, mode: mode.into(), health_policy: health.into() })
}

fn families(families: &[String]) -> IpFamilies {
    match families {
        [] => IpFamilies::Automatic,
        [one] if one == "IPv4" => IpFamilies::Ipv4Only,
        [one] if one == "IPv6" => IpFamilies::Ipv6Only,
        _ => IpFamilies::Dual,
    }
}
