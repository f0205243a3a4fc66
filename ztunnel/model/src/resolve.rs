//! Where a connection goes. Whether it may is for [`crate::authorize`].

use std::{net::{IpAddr, SocketAddr}, sync::Arc};

use crate::{
    NetworkAddress, OriginalDst, Refusal, Snapshot, SpiffeId, Workload, WorkloadUid,
    address::{HBONE_PORT, RESERVED_PORTS},
    service::Service,
    workload::{Health, NetworkMode, Protocol},
};

/// The way out of a pod.
#[derive(Clone, Debug)]
pub enum Route {
    Tunnel(TunnelRoute),
    Passthrough(PassthroughRoute),
}

/// Through mutual TLS to another proxy.
#[derive(Clone, Debug)]
pub struct TunnelRoute {
    /// The pod it leaves: its namespace holds the socket, its address is the tunnel's source.
    pub source_uid: WorkloadUid,
    pub source: SpiffeId,
    /// The far proxy must prove one of these.
    pub expected: Vec<SpiffeId>,
    /// Where TLS is spoken.
    pub gateway: SocketAddr,
    /// What CONNECT asks for: `ip:port`.
    pub authority: SocketAddr,
    pub destination: Arc<Workload>,
    pub service: Option<Arc<Service>>,
}

/// In plaintext, as the application sent it.
#[derive(Clone, Debug)]
pub struct PassthroughRoute {
    pub source_uid: WorkloadUid,
    pub target: SocketAddr,
    pub destination: Option<Arc<Workload>>,
    pub service: Option<Arc<Service>>,
}

/// From the proxy to the application in the pod.
#[derive(Clone, Debug)]
pub struct ApplicationRoute {
    pub destination: Arc<Workload>,
    pub target: SocketAddr,
    /// The client's address, which the application must see; `None` where it is the pod's own.
    pub source: Option<IpAddr>,
}

/// Where `source`'s connection to `destination` goes. `dice` picks among endpoints: any number, as random as
/// the caller wants the choice to be.
pub fn resolve(
    snapshot: &Snapshot,
    source: &Workload,
    destination: OriginalDst,
    dice: u64,
) -> Result<Route, Refusal> {
    let OriginalDst(target) = destination;
    let address = NetworkAddress { network: source.network.clone(), ip: target.ip() };
    if let Some(service) = snapshot.service_at(&address) {
        let (endpoint, target) = pick_endpoint(snapshot, service, target, dice)?;
        return Ok(to_workload(source, endpoint, target, Some(Arc::clone(service))));
    }
    match snapshot.workload_at(&address) {
        Some(workload) => Ok(to_workload(source, Arc::clone(workload), target, None)),
        None => Ok(Route::Passthrough(PassthroughRoute {
            source_uid: source.uid.clone(),
            target,
            destination: None,
            service: None,
        })),
    }
}

/// The application address that a CONNECT's authority names: an address of this very workload, or the port of a
/// service that this workload is an endpoint of. `arrived_at` is the address the tunnel itself was sent to.
pub fn resolve_authority(
    snapshot: &Snapshot,
    workload: &Workload,
    arrived_at: IpAddr,
    authority: &str,
) -> Result<SocketAddr, Refusal> {
    let target = match authority.parse::<SocketAddr>() {
        Ok(target) => target,
        Err(_) => service_target(snapshot, workload, arrived_at, authority)?,
    };
    if target.ip() != arrived_at || !workload.has_ip(target.ip()) {
        return Err(Refusal::WrongDestination(target));
    }
    if target.port() == 0 || RESERVED_PORTS.contains(&target.port()) {
        return Err(Refusal::ReservedPort(target.port()));
    }
    Ok(target)
}

fn service_target(
    snapshot: &Snapshot,
    workload: &Workload,
    arrived_at: IpAddr,
    authority: &str,
) -> Result<SocketAddr, Refusal> {
    let malformed = || Refusal::BadAuthority(authority.to_owned());
    let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let unknown = || Refusal::UnknownDestination(authority.to_owned());
    let service = snapshot.service_named(host).ok_or_else(unknown)?;
    let target_port = endpoint_port(service, workload, port).ok_or_else(unknown)?;
    Ok(SocketAddr::new(arrived_at, target_port))
}

fn pick_endpoint(
    snapshot: &Snapshot,
    service: &Service,
    target: SocketAddr,
    dice: u64,
) -> Result<(Arc<Workload>, SocketAddr), Refusal> {
    if !service.ports.contains_key(&target.port()) {
        return Err(Refusal::NoSuchServicePort { service: service.key(), port: target.port() });
    }
    let usable: Vec<(&Arc<Workload>, SocketAddr)> = snapshot
        .endpoints(&service.key())
        .filter(|endpoint| endpoint.status == Health::Healthy)
        .filter_map(|endpoint| {
            let port = endpoint_port(service, endpoint, target.port())?;
            Some((endpoint, endpoint.address_like(target.ip(), port)?))
        })
        .collect();
    let count = u64::try_from(usable.len()).unwrap_or(u64::MAX);
    let chosen = dice.checked_rem(count).and_then(|n| usable.get(usize::try_from(n).ok()?));
    let (endpoint, address) = chosen.ok_or_else(|| Refusal::NoHealthyEndpoint(service.key()))?;
    Ok((Arc::clone(endpoint), *address))
}

/// An endpoint's own port map goes before the service's.
fn endpoint_port(service: &Service, endpoint: &Workload, port: u16) -> Option<u16> {
    let own = endpoint.services.get(&service.key())?;
    own.get(&port).or_else(|| service.ports.get(&port)).copied()
}

fn to_workload(
    source: &Workload,
    destination: Arc<Workload>,
    target: SocketAddr,
    service: Option<Arc<Service>>,
) -> Route {
    let speaks_hbone =
        destination.protocol == Protocol::Hbone && destination.network_mode == NetworkMode::Standard;
    // A pod that reaches itself through its service never leaves itself: there is nothing to encrypt.
    if !speaks_hbone || destination.uid == source.uid {
        let source_uid = source.uid.clone();
        return Route::Passthrough(PassthroughRoute { source_uid, target, destination: Some(destination), service });
    }
    let mut expected = vec![destination.identity.clone()];
    expected.extend(service.iter().flat_map(|service| service.subject_alt_names.iter().cloned()));
    Route::Tunnel(TunnelRoute {
        source_uid: source.uid.clone(),
        source: source.identity.clone(),
        expected,
        gateway: SocketAddr::new(target.ip(), HBONE_PORT),
        authority: target,
        destination,
        service,
    })
}
