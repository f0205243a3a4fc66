//! The far ends of tunnels: a workload's own proxy, or a waypoint that its traffic must pass.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{HBONE_PORT, Pick, Resolved, Resolver, Route, TunnelRoute, Way, choose_endpoint, identities};
use crate::{
    Network, Refusal, Snapshot, SpiffeId, Workload,
    balance::Address,
    service::Service,
    snapshot::KnownService,
    workload::{Waypoint, WaypointDestination},
};

/// Where TLS is spoken, and by whom.
pub(super) struct Gateway {
    pub(super) proxy: Arc<Workload>,
    address: SocketAddr,
    expected: Vec<SpiffeId>,
    pick: Option<Pick>,
}

impl Gateway {
    pub(super) fn of_workload(workload: &Arc<Workload>, service: Option<&Service>, ip: IpAddr) -> Self {
        Self {
            proxy: Arc::clone(workload),
            address: SocketAddr::new(ip, HBONE_PORT),
            expected: identities(workload, service),
            pick: None,
        }
    }

    /// One of the proxies behind `waypoint`. `like` says which address family is wanted.
    pub(super) fn of_waypoint(
        resolver: &Resolver<'_>,
        waypoint: &Waypoint,
        like: SocketAddr,
    ) -> Result<Self, Refusal> {
        let Resolver { snapshot, source, .. } = *resolver;
        let unknown = || Refusal::UnknownWaypoint(waypoint.destination.to_string());
        if let Some(known) = waypoint_service(snapshot, source, waypoint) {
            let asked = SocketAddr::new(like.ip(), waypoint.hbone_mtls_port);
            let (proxy, address, pick) = choose_endpoint(resolver, known, asked)?;
            let Address::Known(address) = address else { return Err(unknown()) };
            let expected = identities(&proxy, Some(&known.service));
            return Ok(Self { proxy, address, expected, pick: Some(pick) });
        }
        let (proxy, ip) = match &waypoint.destination {
            WaypointDestination::Address(address) => (snapshot.workload_at(address), Some(address.ip)),
            // A service's name goes before a workload's own.
            WaypointDestination::Hostname(name) => {
                let proxy = snapshot.workload_named(name);
                (proxy, proxy.and_then(|proxy| ip_like(proxy, like.ip())))
            }
        };
        if waypoint_network(waypoint, proxy).is_some_and(|network| *network != source.network) {
            return Err(Refusal::OtherNetwork(format!("waypoint {}", waypoint.destination)));
        }
        let (proxy, ip) = proxy.zip(ip).ok_or_else(unknown)?;
        Ok(Self {
            proxy: Arc::clone(proxy),
            address: SocketAddr::new(ip, waypoint.hbone_mtls_port),
            expected: identities(proxy, None),
            pick: None,
        })
    }

    pub(super) fn resolved(
        self,
        source: &Workload,
        authority: SocketAddr,
        destination: Arc<Workload>,
        service: Option<Arc<Service>>,
    ) -> Resolved {
        let pick = self.pick.clone();
        Resolved { way: Way::Route(self.route(source, authority, destination, service)), pick }
    }

    pub(super) fn route(
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
pub(super) fn passed_waypoint<'a>(
    snapshot: &Snapshot,
    source: &Workload,
    waypoint: Option<&'a Waypoint>,
) -> Option<&'a Waypoint> {
    let waypoint = waypoint?;
    let is_source = match (waypoint_service(snapshot, source, waypoint), &waypoint.destination) {
        (Some(known), _) => source.services.contains_key(&known.key),
        (None, WaypointDestination::Address(address)) => {
            address.network == source.network && source.has_ip(address.ip)
        }
        (None, WaypointDestination::Hostname(name)) => {
            source.hostname == name.hostname && source.namespace == name.namespace
        }
    };
    (!is_source).then_some(waypoint)
}

/// Its first address, of the family of `like` if it has one of that.
fn ip_like(proxy: &Workload, like: IpAddr) -> Option<IpAddr> {
    let alike = proxy.workload_ips.iter().find(|ip| ip.is_ipv4() == like.is_ipv4());
    alike.or_else(|| proxy.workload_ips.first()).copied()
}

fn waypoint_network<'a>(waypoint: &'a Waypoint, proxy: Option<&'a Arc<Workload>>) -> Option<&'a Network> {
    match &waypoint.destination {
        WaypointDestination::Address(address) => Some(&address.network),
        WaypointDestination::Hostname(_) => proxy.map(|proxy| &proxy.network),
    }
}

fn waypoint_service<'a>(
    snapshot: &'a Snapshot,
    source: &Workload,
    waypoint: &Waypoint,
) -> Option<&'a KnownService> {
    match &waypoint.destination {
        WaypointDestination::Address(address) => snapshot.known_service_at(address, &source.namespace),
        WaypointDestination::Hostname(key) => snapshot.known_service(key),
    }
}
