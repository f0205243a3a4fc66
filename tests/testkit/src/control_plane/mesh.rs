//! The workloads and services of a state file, as a control plane tells of them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use proto::{
    prost::Message,
    workload::{Address, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, address::Type},
};
use serde_json::Value;

use super::Known;

pub(super) fn known(state: &Value) -> Result<Vec<Known>> {
    let list = |name: &str| state[name].as_array().cloned().unwrap_or_default();
    let workloads: Vec<Workload> = list("workloads").iter().map(workload).collect::<Result<_>>()?;
    let services: Vec<Service> = list("services").iter().map(service).collect::<Result<_>>()?;
    let of_services = services.iter().map(|service| {
        let name = format!("{}/{}", service.namespace, service.hostname);
        let aliases = service.addresses.iter().map(|address| alias(&address.address)).collect();
        resource(&name, aliases, Type::Service(service.clone()))
    });
    let of_workloads = workloads.iter().map(|workload| {
        let own = workload.addresses.iter().map(|address| alias(address));
        // Whoever asks for a service gets its endpoints with it.
        let behind = services.iter().filter(|service| {
            workload.services.contains_key(&format!("{}/{}", service.namespace, service.hostname))
        });
        let behind =
            behind.flat_map(|service| service.addresses.iter().map(|address| alias(&address.address)));
        resource(&workload.uid, own.chain(behind).collect(), Type::Workload(workload.clone()))
    });
    Ok(of_services.chain(of_workloads).collect())
}

pub(super) fn resource(name: &str, aliases: Vec<String>, content: Type) -> Known {
    Known::address(name, aliases, Address { r#type: Some(content) }.encode_to_vec())
}

fn alias(address: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
    let ip = v4.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from));
    ip.map(|ip| format!("/{ip}")).unwrap_or_default()
}

fn workload(state: &Value) -> Result<Workload> {
    let services = state["services"].as_object().cloned().unwrap_or_default();
    let tunnel_protocol =
        if state["protocol"] == "HBONE" { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    Ok(Workload {
        name: text(state, "name"),
        namespace: text(state, "namespace"),
        addresses: addresses(&state["workloadIps"])?,
        tunnel_protocol: tunnel_protocol.into(),
        trust_domain: text(state, "trustDomain"),
        service_account: text(state, "serviceAccount"),
        node: text(state, "node"),
        canonical_name: text(state, "canonicalName"),
        canonical_revision: text(state, "canonicalRevision"),
        workload_name: text(state, "workloadName"),
        cluster_id: text(state, "clusterId"),
        uid: text(state, "uid"),
        services: services.into_iter().map(|(name, own)| (name, PortList { ports: ports(&own) })).collect(),
        ..Workload::default()
    })
}

fn service(state: &Value) -> Result<Service> {
    let vips: Vec<Value> = state["vips"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|vip| vip.as_str().unwrap_or_default().trim_start_matches('/').into())
        .collect();
    let address = |address| NetworkAddress { address, ..NetworkAddress::default() };
    Ok(Service {
        name: text(state, "name"),
        namespace: text(state, "namespace"),
        hostname: text(state, "hostname"),
        addresses: addresses(&Value::Array(vips))?.into_iter().map(address).collect(),
        ports: ports(&state["ports"]),
        ..Service::default()
    })
}

fn text(state: &Value, field: &str) -> String {
    state[field].as_str().unwrap_or_default().to_owned()
}

fn ports(state: &Value) -> Vec<Port> {
    let number = |text: &str| text.parse().unwrap_or_default();
    let entries = state.as_object().into_iter().flatten();
    entries
        .map(|(service, target)| Port {
            service_port: number(service),
            target_port: target.as_u64().and_then(|port| u32::try_from(port).ok()).unwrap_or_default(),
            ..Port::default()
        })
        .collect()
}

fn addresses(state: &Value) -> Result<Vec<bytes::Bytes>> {
    let each = state.as_array().into_iter().flatten().map(|ip| {
        let ip: IpAddr = ip.as_str().context("an address is text")?.parse()?;
        Ok(match ip {
            IpAddr::V4(ip) => bytes::Bytes::copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes::Bytes::copy_from_slice(&ip.octets()),
        })
    });
    each.collect()
}
