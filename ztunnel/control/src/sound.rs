//! What no source of state may say, be it a file or the control plane.

use model::{Workload, address::RESERVED_PORTS, policy::Policy, service::Service, workload::PortMap};

pub(crate) fn workload(workload: &Workload) -> Result<(), String> {
    if workload.uid.as_str().is_empty() {
        return Err("the uid must not be empty".to_owned());
    }
    let tunnel = workload.application_tunnel.and_then(|tunnel| tunnel.port);
    if let Some(port) = tunnel.filter(|port| RESERVED_PORTS.contains(&port.get())) {
        return Err(format!("applicationTunnel: port {port} is the mesh's own"));
    }
    workload.services.values().try_for_each(ports)
}

/// A target of 0 means that each endpoint says its own.
pub(crate) fn service(service: &Service) -> Result<(), String> {
    if service.namespace.is_empty() || service.hostname.is_empty() {
        return Err("namespace and hostname must not be empty".to_owned());
    }
    if service.ports.contains_key(&0) {
        return Err("expected service ports from 1 to 65535, found 0".to_owned());
    }
    match service.port_names.iter().find(|(_, port)| !service.ports.contains_key(port)) {
        Some((name, port)) => Err(format!("portNames: `{name}` is {port}, which is not among its ports")),
        None => Ok(()),
    }
}

pub(crate) fn policy(policy: &Policy) -> Result<(), String> {
    if policy.name.is_empty() || policy.name.contains('/') || policy.namespace.contains('/') {
        return Err("expected a name, and no `/` in name and namespace".to_owned());
    }
    Ok(())
}

/// Those of an endpoint.
pub(crate) fn ports(ports: &PortMap) -> Result<(), String> {
    if ports.iter().any(|(&service, &target)| service == 0 || target == 0) {
        return Err("expected ports from 1 to 65535, found 0".to_owned());
    }
    Ok(())
}
