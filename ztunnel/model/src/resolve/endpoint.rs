//! Which endpoint of a service a connection goes to.

use std::{net::SocketAddr, sync::Arc};

use crate::{Refusal, Snapshot, Workload, service::Service, workload::Health};

/// A healthy endpoint that serves `target`'s port over its address family, chosen by weight.
pub(super) fn pick_endpoint(
    snapshot: &Snapshot,
    source: &Workload,
    service: &Service,
    target: SocketAddr,
    dice: u64,
) -> Result<(Arc<Workload>, SocketAddr), Refusal> {
    let key = service.key();
    if !service.ports.contains_key(&target.port()) {
        return Err(Refusal::NoSuchServicePort { service: key, port: target.port() });
    }
    let serving = || {
        snapshot.endpoints(&key).filter(|endpoint| endpoint.status == Health::Healthy).filter_map(
            |endpoint| {
                let port = endpoint_port(service, endpoint, target.port())?;
                Some((endpoint, endpoint.address_like(target.ip(), port)?))
            },
        )
    };
    // An address of another network means nothing, or somebody else, in this one.
    let reachable = || serving().filter(|(endpoint, _)| endpoint.network == source.network);
    let total: u64 = reachable().map(|(endpoint, _)| u64::from(endpoint.capacity)).sum();
    let mut left = dice.checked_rem(total).ok_or_else(|| match serving().find_map(elsewhere(source)) {
        Some(refusal) => refusal,
        None => Refusal::NoHealthyEndpoint(key.clone()),
    })?;
    for (endpoint, address) in reachable() {
        match left.checked_sub(u64::from(endpoint.capacity)) {
            None => return Ok((Arc::clone(endpoint), address)),
            Some(rest) => left = rest,
        }
    }
    Err(Refusal::NoHealthyEndpoint(key))
}

/// An endpoint's own port map goes before the service's.
pub(super) fn endpoint_port(service: &Service, endpoint: &Workload, port: u16) -> Option<u16> {
    let own = endpoint.services.get(&service.key())?;
    own.get(&port).or_else(|| service.ports.get(&port)).copied()
}

fn elsewhere(source: &Workload) -> impl Fn((&Arc<Workload>, SocketAddr)) -> Option<Refusal> {
    |(endpoint, _)| {
        let other = endpoint.addresses().find(|_| endpoint.network != source.network)?;
        Some(Refusal::OtherNetwork(other))
    }
}
