//! What people write for a source or a destination.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{MAX_ENDPOINTS, Source, workload_at};
use crate::{Network, Snapshot, Workload, resolve::target_ports, service::Service, workload::NetworkMode};

/// Where a name leads: to several addresses if a service has none of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub addresses: Vec<SocketAddr>,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotFound {
    #[error(
        "`{0}` is no workload: expected an IP address, a uid, or `namespace/name` of a pod or what it was made from"
    )]
    Source(String),
    #[error(
        "`{0}` is neither an address, a workload nor a service: expected `IP:PORT`, `namespace/name[:PORT]` or a \
         service's host name"
    )]
    Destination(String),
    #[error("`{0}` needs a port: {1}")]
    Port(String, String),
    #[error("`{0}` has no address")]
    Address(String),
    #[error("`{0}` has no endpoint that is well and within reach")]
    Endpoint(String),
    #[error("`{0}` is the address of several workloads: name one of {1}")]
    Several(String, String),
}

pub fn find_source(snapshot: &Snapshot, text: &str) -> Result<Source, NotFound> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return source_at(snapshot, text, ip.to_canonical());
    }
    let found = workload_named(snapshot, text).ok_or_else(|| NotFound::Source(text.to_owned()))?;
    Ok(Source::Workload(Arc::clone(found)))
}

/// Those that share their node's address are nobody in particular; pods of several networks may have one address.
fn source_at(snapshot: &Snapshot, text: &str, ip: IpAddr) -> Result<Source, NotFound> {
    let own =
        |workload: &&Arc<Workload>| workload.network_mode != NetworkMode::HostNetwork && workload.has_ip(ip);
    let holders: Vec<_> = snapshot.workloads().filter(own).take(MAX_ENDPOINTS).collect();
    match holders[..] {
        [] => Ok(Source::Stranger(ip)),
        [one] => Ok(Source::Workload(Arc::clone(one))),
        _ => {
            let uids: Vec<_> = holders.iter().map(|workload| workload.uid.as_str()).collect();
            Err(NotFound::Several(text.to_owned(), uids.join(", ")))
        }
    }
}

pub fn find_destination(snapshot: &Snapshot, source: &Source, text: &str) -> Result<Destination, NotFound> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Destination { addresses: vec![address] });
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse().ok()),
        _ => (text, None),
    };
    // In which network a stranger is, nobody knows.
    let (network, namespace) = match source {
        Source::Workload(workload) => (Some(&workload.network), &*workload.namespace),
        Source::Stranger(_) => (None, ""),
    };
    if let Ok(ip) = name.parse::<IpAddr>() {
        let holder = match network {
            Some(network) => workload_at(snapshot, network, ip.to_canonical()),
            None => snapshot.workloads().find(|workload| workload.has_ip(ip.to_canonical())),
        };
        let ports = holder.map(|workload| served_ports(snapshot, workload)).unwrap_or_default();
        return at(text, vec![ip], port, &ports);
    }
    if let Some(service) = service_named(snapshot, name, namespace) {
        let ports: Vec<u16> = service.ports.keys().copied().collect();
        let own = service.vips.iter().filter(|vip| network.is_none_or(|network| vip.network == *network));
        let vips: Vec<IpAddr> = own.map(|vip| vip.block().addr()).take(1).collect();
        return if vips.is_empty() {
            headless(snapshot, text, network, service, port, &ports)
        } else {
            at(text, vips, port, &ports)
        };
    }
    let workload = workload_named(snapshot, name).ok_or_else(|| NotFound::Destination(text.to_owned()))?;
    let ips = workload.workload_ips.first().copied().into_iter().collect();
    at(text, ips, port, &served_ports(snapshot, workload))
}

fn at(text: &str, ips: Vec<IpAddr>, port: Option<u16>, ports: &[u16]) -> Result<Destination, NotFound> {
    let port = the_port(text, port, ports)?;
    if ips.is_empty() {
        return Err(NotFound::Address(text.to_owned()));
    }
    Ok(Destination { addresses: ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect() })
}

/// DNS answers with the own addresses of those endpoints that are well and in the client's network.
fn headless(
    snapshot: &Snapshot,
    text: &str,
    network: Option<&Network>,
    service: &Service,
    port: Option<u16>,
    ports: &[u16],
) -> Result<Destination, NotFound> {
    let port = the_port(text, port, ports)?;
    let key = service.key();
    let is_near = |endpoint: &&Arc<Workload>| network.is_none_or(|network| endpoint.network == *network);
    let near = snapshot.endpoints(&key).filter(is_near);
    let well = near.filter(|endpoint| service.wants(endpoint));
    let ips: Vec<_> = well
        .filter_map(|endpoint| endpoint.workload_ips.iter().copied().find(|&ip| service.admits(ip)))
        .collect();
    if ips.is_empty() { Err(NotFound::Endpoint(text.to_owned())) } else { at(text, ips, Some(port), ports) }
}

fn the_port(text: &str, given: Option<u16>, known: &[u16]) -> Result<u16, NotFound> {
    match (given, known) {
        (Some(port), _) => Ok(port),
        (None, [port]) => Ok(*port),
        (None, []) => Err(NotFound::Port(text.to_owned(), "nothing says on which it listens".to_owned())),
        (None, several) => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            Err(NotFound::Port(text.to_owned(), format!("one of {}", several.join(", "))))
        }
    }
}

/// By uid, by `namespace/name` of the pod, or by that of what it was made from.
fn workload_named<'a>(snapshot: &'a Snapshot, text: &str) -> Option<&'a Arc<Workload>> {
    let by_uid = snapshot.workload(&crate::WorkloadUid::new(text));
    by_uid.or_else(|| {
        let (namespace, name) = text.split_once('/')?;
        let of = |field: fn(&Workload) -> &str| {
            snapshot.workloads().find(|w| *w.namespace == *namespace && field(w) == name)
        };
        of(|workload| &workload.name).or_else(|| of(|workload| &workload.workload_name))
    })
}

/// By host name, by `namespace/name`, or by its name alone within the source's namespace.
fn service_named<'a>(snapshot: &'a Snapshot, text: &str, namespace: &str) -> Option<&'a Arc<Service>> {
    snapshot.service_named(text, namespace).or_else(|| {
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        snapshot.services().find(|s| *s.namespace == *namespace && (*s.name == *name || *s.hostname == *name))
    })
}

fn served_ports(snapshot: &Snapshot, workload: &Workload) -> Vec<u16> {
    let services = workload.services.iter().filter_map(|(key, own)| Some((snapshot.service(key)?, own)));
    let mut ports: Vec<u16> = services.flat_map(|(service, own)| target_ports(service, own)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
