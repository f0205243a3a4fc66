//! Where a connection goes. Whether it may is for [`crate::authorize`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use crate::{
    NetworkAddress, OriginalDst, Refusal, Snapshot, SpiffeId, Workload, WorkloadUid,
    address::HBONE_PORT,
    balance::Address,
    mtls::{MtlsMode, mtls},
    outlier::{Outliers, ServicePort},
    service::Service,
    snapshot::KnownService,
    workload::{NetworkMode, Protocol, Waypoint},
};

mod endpoint;
mod inbound;
mod named;
#[cfg(test)]
mod tests;
mod waypoint;

use endpoint::choose_endpoint;
pub use endpoint::target_port;
pub(crate) use endpoint::target_ports;
pub use inbound::{Asked, resolve_authority};
pub use named::NamedRoute;
use waypoint::{Gateway, passed_waypoint};

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

/// To a pod that the same daemon serves, past the network. Both identities are those of the state: enrolment, not TLS,
/// says whose the sockets are.
#[derive(Clone, Debug)]
pub struct DirectRoute {
    pub source: SpiffeId,
    pub target: SocketAddr,
    pub destination: Arc<Workload>,
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
    /// The client's address, which the application must see; `None` where it is the pod's own, or where `is_told`.
    pub source: Option<IpAddr>,
    /// The application is told of the connection by a header of the PROXY protocol.
    pub is_told: bool,
}

impl TunnelRoute {
    /// Whether it leads to the destination's own node proxy, so that nobody else has a say in between.
    pub fn ends_at_destination(&self) -> bool {
        self.gateway == SocketAddr::new(self.authority.ip(), HBONE_PORT) && !self.destination.native_tunnel
    }
}

/// What a choice among endpoints follows besides the state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// Any number, as random as the choice shall be.
    pub dice: u64,
    /// Endpoints that have failed this very connection: not to be chosen again.
    pub tried: &'a [WorkloadUid],
    /// Endpoints that have failed others, as of a moment: chosen if there is nobody else.
    pub outliers: Option<(&'a Outliers, Instant)>,
}

impl Choice<'_> {
    pub fn of(dice: u64) -> Self {
        Self { dice, ..Self::default() }
    }
}

#[derive(Clone, Debug)]
pub struct Resolved {
    pub way: Way,
    /// Who was chosen, where there was a choice.
    pub pick: Option<Pick>,
}

#[derive(Clone, Debug)]
pub enum Way {
    Route(Route),
    /// The destination's host name must be looked up first.
    ByName(NamedRoute),
}

/// The endpoint that was chosen among those of a service, or of its waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    pub service: ServicePort,
    pub endpoint: WorkloadUid,
    /// Whether another could be chosen if this one fails.
    pub alternatives: bool,
}

/// Where `source`'s connection to `destination` goes. A service's own address goes before a workload's, and a
/// workload's before a block of addresses that a service has.
pub fn resolve(
    snapshot: &Snapshot,
    source: &Workload,
    destination: OriginalDst,
    choice: &Choice<'_>,
) -> Result<Resolved, Refusal> {
    let target = canonical(destination.0);
    let (service, workload) = holders(snapshot, source, target.ip());
    let resolver = Resolver { snapshot, source, choice };
    match service {
        Some(service) => resolver.to_service(service, workload, target),
        None => resolver.to_address(workload, target, None),
    }
}

/// Whose address `ip` is to `source`: the service's goes first. Only an address that is nobody's own is a block's.
fn holders<'a>(
    snapshot: &'a Snapshot,
    source: &Workload,
    ip: IpAddr,
) -> (Option<&'a KnownService>, Option<&'a Arc<Workload>>) {
    let address = NetworkAddress { network: source.network.clone(), ip };
    let exact = snapshot.known_service_at(&address, &source.namespace);
    let workload = snapshot.workload_at(&address);
    let around = || snapshot.known_service_around(&address, &source.namespace);
    let is_nobody_s = workload.is_none() && snapshot.unreadable_at(&address).is_none();
    (if is_nobody_s { exact.or_else(around) } else { exact }, workload)
}

/// Whether the address is a service's or a workload's.
pub(crate) fn is_held(snapshot: &Snapshot, source: &Workload, ip: IpAddr) -> bool {
    !matches!(holders(snapshot, source, ip.to_canonical()), (None, None))
}

/// The waypoint that a connection to `ip` would pass, as far as the state knows. For whoever must ask for it first.
pub fn waypoint_towards<'a>(snapshot: &'a Snapshot, source: &Workload, ip: IpAddr) -> Option<&'a Waypoint> {
    let (service, workload) = holders(snapshot, source, ip.to_canonical());
    let of_service = service.and_then(|known| known.service.waypoint.as_ref());
    let chooses = service.is_some_and(|known| !known.service.chooses_nobody());
    of_service.or_else(|| workload.filter(|_| !chooses)?.waypoint.as_deref())
}

/// One question of the state.
struct Resolver<'a> {
    snapshot: &'a Snapshot,
    source: &'a Workload,
    choice: &'a Choice<'a>,
}

impl Resolver<'_> {
    /// `workload` has the address too.
    fn to_service(
        &self,
        known: &KnownService,
        workload: Option<&Arc<Workload>>,
        target: SocketAddr,
    ) -> Result<Resolved, Refusal> {
        let service = &known.service;
        if let Some(waypoint) = passed_waypoint(self.snapshot, self.source, service.waypoint.as_ref()) {
            let gateway = Gateway::of_waypoint(self, waypoint, target)?;
            let proxy = Arc::clone(&gateway.proxy);
            return Ok(gateway.resolved(self.source, target, proxy, Some(Arc::clone(service))));
        }
        if service.chooses_nobody() {
            return self.to_address(workload, target, Some(service));
        }
        self.to_endpoint(known, target)
    }

    fn to_endpoint(&self, known: &KnownService, target: SocketAddr) -> Result<Resolved, Refusal> {
        let port = target.port();
        if !known.service.ports.contains_key(&port) {
            return Err(Refusal::NoSuchServicePort { service: known.key.clone(), port });
        }
        let (endpoint, address, pick) = choose_endpoint(self, known, target)?;
        let service = Some(Arc::clone(&known.service));
        let way = match address {
            Address::Known(target) => {
                Way::Route(to_workload(self.snapshot, self.source, endpoint, target, service))
            }
            Address::ByName { port } => {
                Way::ByName(NamedRoute { endpoint, port, service, asked: target.ip() })
            }
        };
        Ok(Resolved { way, pick: Some(pick) })
    }

    /// To whoever has the address that was asked for, by itself or as one of a service that chooses nobody.
    fn to_address(
        &self,
        workload: Option<&Arc<Workload>>,
        target: SocketAddr,
        service: Option<&Arc<Service>>,
    ) -> Result<Resolved, Refusal> {
        let Some(workload) = workload else {
            refuse_unreadable(self.snapshot, self.source, target.ip())?;
            return Ok(passthrough(self.source, target, None, service.cloned()).into());
        };
        if let Some(waypoint) = passed_waypoint(self.snapshot, self.source, workload.waypoint.as_deref()) {
            let gateway = Gateway::of_waypoint(self, waypoint, target)?;
            return Ok(gateway.resolved(self.source, target, Arc::clone(workload), service.cloned()));
        }
        Ok(to_workload(self.snapshot, self.source, Arc::clone(workload), target, service.cloned()).into())
    }
}

fn refuse_unreadable(snapshot: &Snapshot, source: &Workload, ip: IpAddr) -> Result<(), Refusal> {
    let unreadable = snapshot.unreadable_at(&NetworkAddress { network: source.network.clone(), ip });
    unreadable.map_or(Ok(()), |name| Err(Refusal::Unreadable(name.to_string())))
}

fn to_workload(
    snapshot: &Snapshot,
    source: &Workload,
    destination: Arc<Workload>,
    target: SocketAddr,
    service: Option<Arc<Service>>,
) -> Route {
    let speaks_hbone = destination.protocol == Protocol::Hbone
        && destination.network_mode == NetworkMode::Standard
        && mtls(snapshot, &destination, target.port(), None).mode != MtlsMode::Disable;
    // A pod that reaches itself through its service never leaves itself: there is nothing to encrypt.
    if !speaks_hbone || destination.uid == source.uid {
        return passthrough(source, target, Some(destination), service);
    }
    let gateway = Gateway::of_workload(&destination, service.as_deref(), target.ip());
    gateway.route(source, target, destination, service)
}

fn passthrough(
    source: &Workload,
    target: SocketAddr,
    destination: Option<Arc<Workload>>,
    service: Option<Arc<Service>>,
) -> Route {
    Route::Passthrough(PassthroughRoute { source_uid: source.uid.clone(), target, destination, service })
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

impl From<Route> for Resolved {
    fn from(route: Route) -> Self {
        Self { way: Way::Route(route), pick: None }
    }
}
