//! Where a connection goes. Whether it may is for [`crate::authorize`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    NetworkAddress, OriginalDst, Refusal, Snapshot, SpiffeId, Workload, WorkloadUid,
    address::{HBONE_PORT, RESERVED_PORTS},
    service::Service,
    workload::{NetworkMode, Protocol, Waypoint, WaypointDestination},
};

mod endpoint;
#[cfg(test)]
mod tests;

use endpoint::{endpoint_port, pick_endpoint};

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
    let target = canonical(destination.0);
    let address = NetworkAddress { network: source.network.clone(), ip: target.ip() };
    if let Some(service) = snapshot.service_at(&address) {
        return to_service(snapshot, source, service, target, dice);
    }
    let Some(workload) = snapshot.workload_at(&address) else {
        let source_uid = source.uid.clone();
        return Ok(Route::Passthrough(PassthroughRoute {
            source_uid,
            target,
            destination: None,
            service: None,
        }));
    };
    if let Some(waypoint) = passed_waypoint(snapshot, source, workload.waypoint.as_ref()) {
        let gateway = Gateway::of_waypoint(snapshot, source, waypoint, target, dice)?;
        return Ok(gateway.route(source, target, Arc::clone(workload), None));
    }
    Ok(to_workload(source, Arc::clone(workload), target, None))
}

/// The application address that a CONNECT's authority names: an address of this very workload, or the port of a
/// service that this workload is an endpoint of. `arrived_at` is the address the tunnel itself was sent to.
pub fn resolve_authority(
    snapshot: &Snapshot,
    workload: &Workload,
    arrived_at: IpAddr,
    authority: &str,
) -> Result<SocketAddr, Refusal> {
    let arrived_at = arrived_at.to_canonical();
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

fn to_service(
    snapshot: &Snapshot,
    source: &Workload,
    service: &Arc<Service>,
    target: SocketAddr,
    dice: u64,
) -> Result<Route, Refusal> {
    if let Some(waypoint) = passed_waypoint(snapshot, source, service.waypoint.as_ref()) {
        let gateway = Gateway::of_waypoint(snapshot, source, waypoint, target, dice)?;
        let proxy = Arc::clone(&gateway.proxy);
        return Ok(gateway.route(source, target, proxy, Some(Arc::clone(service))));
    }
    let (endpoint, target) = pick_endpoint(snapshot, source, service, target, dice)?;
    Ok(to_workload(source, endpoint, target, Some(Arc::clone(service))))
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
        return Route::Passthrough(PassthroughRoute {
            source_uid,
            target,
            destination: Some(destination),
            service,
        });
    }
    let gateway = Gateway {
        address: SocketAddr::new(target.ip(), HBONE_PORT),
        expected: identities(&destination, service.as_deref()),
        proxy: Arc::clone(&destination),
    };
    gateway.route(source, target, destination, service)
}

/// The far end of a tunnel: where TLS is spoken, and by whom.
struct Gateway {
    address: SocketAddr,
    expected: Vec<SpiffeId>,
    proxy: Arc<Workload>,
}

impl Gateway {
    /// One of the proxies behind `waypoint`. `like` says which address family the connection is of.
    fn of_waypoint(
        snapshot: &Snapshot,
        source: &Workload,
        waypoint: &Waypoint,
        like: SocketAddr,
        dice: u64,
    ) -> Result<Self, Refusal> {
        let unknown = || Refusal::UnknownWaypoint(waypoint.destination.to_string());
        if let Some(service) = waypoint_service(snapshot, waypoint) {
            let hbone = SocketAddr::new(like.ip(), waypoint.hbone_mtls_port);
            let (proxy, address) = pick_endpoint(snapshot, source, service, hbone, dice)?;
            return Ok(Self { address, expected: identities(&proxy, Some(service)), proxy });
        }
        let WaypointDestination::Address(address) = &waypoint.destination else { return Err(unknown()) };
        let proxy = snapshot.workload_at(address).ok_or_else(unknown)?;
        if address.network != source.network {
            return Err(Refusal::OtherNetwork(address.clone()));
        }
        Ok(Self {
            address: SocketAddr::new(address.ip, waypoint.hbone_mtls_port),
            expected: identities(proxy, None),
            proxy: Arc::clone(proxy),
        })
    }

    fn route(
        self,
        source: &Workload,
        authority: SocketAddr,
        destination: Arc<Workload>,
        service: Option<Arc<Service>>,
    ) -> Route {
        Route::Tunnel(TunnelRoute {
            source_uid: source.uid.clone(),
            source: source.identity.clone(),
            expected: self.expected,
            gateway: self.address,
            authority,
            destination,
            service,
        })
    }
}

/// The waypoint that `source`'s traffic must pass, unless `source` is that waypoint itself.
fn passed_waypoint<'a>(
    snapshot: &Snapshot,
    source: &Workload,
    waypoint: Option<&'a Waypoint>,
) -> Option<&'a Waypoint> {
    let waypoint = waypoint?;
    let is_source = match (waypoint_service(snapshot, waypoint), &waypoint.destination) {
        (Some(service), _) => source.services.contains_key(&service.key()),
        (None, WaypointDestination::Address(address)) => {
            address.network == source.network && source.has_ip(address.ip)
        }
        (None, WaypointDestination::Hostname(_)) => false,
    };
    (!is_source).then_some(waypoint)
}

fn waypoint_service<'a>(snapshot: &'a Snapshot, waypoint: &Waypoint) -> Option<&'a Arc<Service>> {
    match &waypoint.destination {
        WaypointDestination::Address(address) => snapshot.service_at(address),
        WaypointDestination::Hostname(key) => snapshot.service(key),
    }
}

/// Who may answer for `workload`: itself, and what the service vouches for.
fn identities(workload: &Workload, service: Option<&Service>) -> Vec<SpiffeId> {
    let vouched = service.into_iter().flat_map(|service| service.subject_alt_names.iter());
    std::iter::once(&workload.identity).chain(vouched).cloned().collect()
}

/// An IPv4 address in IPv6 clothes is the IPv4 address: state and policies know only that.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
