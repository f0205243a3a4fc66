//! The journey out of a pod: the application connects to somebody.
//!
//! The kernel has completed the application's handshake before we see it, so a connection that cannot be made is
//! reset at once; it never looks like one that was made and ended well.

use std::sync::Arc;

use model::{
    ClientAddr, OriginalDst, PassthroughRoute, Permit, Role, SpiffeId, SvidSource, TunnelRoute, Workload,
    authorize::{OutboundPermit, authorize_outbound},
    refusal::Refusal,
    resolve::{Choice, Route, Way, resolve},
};
use telemetry::{End, Ledger, Outcome, Path};
use tokio::time::timeout;
use tunnel::{ConnectFn, DialError, TunnelStream};

use crate::{
    Arrival, PodSockets,
    copy::{between_sockets, through_tunnel},
    failure::Failure,
    headers::connect_headers,
    leg::Leg,
    room::Seat,
    serve::Pod,
};

enum Upstream {
    Tunnel(TunnelStream),
    Socket(Leg),
}

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    pub(crate) async fn outbound(self: Arc<Self>, arrival: Arrival, seat: Seat) {
        let Arrival { stream, client, destination } = arrival;
        let mut ledger = self.proxy.ledgers.open(Role::Outbound, self.local.uid.clone(), client, destination);
        let outcome = match Leg::new(stream, seat) {
            Ok(application) => self.carry_out(application, client, destination, &mut ledger).await,
            Err(error) => Failure::from(error).into_outcome(),
        };
        ledger.close(&outcome);
    }

    /// Failing drops the application's leg, which resets it.
    async fn carry_out(
        &self,
        application: Leg,
        client: ClientAddr,
        destination: OriginalDst,
        ledger: &mut Ledger,
    ) -> Outcome {
        // Boxed, so that a connection that stands no longer holds what making it took.
        let connecting = Box::pin(self.connect_upstream(client, destination, ledger));
        let upstream = match timeout(self.proxy.settings.connect_deadline, connecting).await {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(failure)) => return failure.into_outcome(),
            Err(_) => return Failure::Deadline.into_outcome(),
        };
        ledger.establish();
        let counters = ledger.counters();
        match upstream {
            Upstream::Tunnel(stream) => through_tunnel(application, stream, End::Source, &counters).await,
            Upstream::Socket(leg) => between_sockets(application, leg, &counters).await,
        }
    }

    async fn connect_upstream(
        &self,
        client: ClientAddr,
        destination: OriginalDst,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Failure> {
        let snapshot = self.snapshot();
        let uid = &self.local.uid;
        let source = snapshot.workload(uid).ok_or_else(|| Refusal::UnknownSource(uid.clone()))?;
        ledger.set_source(source);
        refuse_loop(source, client, destination)?;

        let route = match resolve(&snapshot, source, destination, &Choice::of(rand::random()))?.way {
            Way::Route(route) => route,
            Way::ByName(named) => return Err(Refusal::UnusableHostName(named.hostname().to_owned()).into()),
        };
        record_route(ledger, &route);
        match authorize_outbound(route)? {
            OutboundPermit::Tunnel(permit) => self.dial(permit, source, client, ledger).await,
            OutboundPermit::Passthrough(permit) => self.pass_through(permit, source).await,
        }
    }

    async fn dial(
        &self,
        permit: Permit<TunnelRoute>,
        source: &Workload,
        client: ClientAddr,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Failure> {
        let route = permit.route();
        let headers = connect_headers(source, client, route.service.as_deref());
        let own = route.source.clone();
        let only_expected = sole(&route.expected);
        let sockets = Arc::clone(&self.sockets);
        let connect: ConnectFn =
            Box::new(move |address| Box::pin(async move { sockets.connect(address).await }));
        match self.proxy.tunnel.dial(permit, headers, connect).await {
            Ok(dialed) => {
                ledger.set_identities(own, dialed.peer);
                Ok(Upstream::Tunnel(dialed.stream))
            }
            Err(error) => {
                // Who answers has proven its identity before.
                if let (DialError::Refused(_), Some(peer)) = (&error, only_expected) {
                    ledger.set_identities(own, peer);
                }
                Err(error.into())
            }
        }
    }

    async fn pass_through(
        &self,
        permit: Permit<PassthroughRoute>,
        source: &Workload,
    ) -> Result<Upstream, Failure> {
        let seat = self.room.take().ok_or(Failure::Crowded)?;
        let PassthroughRoute { target, destination, .. } = permit.into_route();
        let connected = match destination {
            // Through its service a pod has reached itself: it must not be captured a second time.
            Some(destination) if destination.uid == source.uid => {
                self.sockets.connect_application(None, target).await
            }
            _ => self.sockets.connect(target).await,
        };
        let stream = connected.map_err(|source| Failure::Connect { target, source })?;
        Ok(Upstream::Socket(Leg::new(stream, seat)?))
    }
}

/// The pod's own addresses and what the kernel makes its own are never captured; if they come here, steering is
/// broken and to connect would bring them here again. So would an address of the pod that the mesh does not know:
/// the kernel gives a connection to it that very address as its source.
fn refuse_loop(
    source: &Workload,
    ClientAddr(client): ClientAddr,
    OriginalDst(destination): OriginalDst,
) -> Result<(), Failure> {
    let ip = destination.ip().to_canonical();
    let returns = ip == client.ip().to_canonical();
    if returns || ip.is_loopback() || ip.is_unspecified() || source.has_ip(ip) {
        return Err(Failure::Loop(destination));
    }
    Ok(())
}

fn record_route(ledger: &mut Ledger, route: &Route) {
    let (destination, service, path) = match route {
        Route::Tunnel(route) => (Some(&route.destination), route.service.as_ref(), tunnel_path(route)),
        Route::Passthrough(route) => {
            let path = Path::Passthrough { target: route.target };
            (route.destination.as_ref(), route.service.as_ref(), path)
        }
    };
    if let Some(destination) = destination {
        ledger.set_destination(destination);
    }
    if let Some(service) = service {
        ledger.set_service(service);
    }
    ledger.set_path(path);
}

fn tunnel_path(route: &TunnelRoute) -> Path {
    Path::Tunnel { gateway: route.gateway, target: route.authority }
}

fn sole(expected: &[SpiffeId]) -> Option<SpiffeId> {
    match expected {
        [only] => Some(only.clone()),
        _ => None,
    }
}
