//! From an application's connection to the one that serves it: resolve, authorize, connect.
//!
//! No byte of the application is sent before the far side has said that it stands. So if an endpoint fails before, nothing
//! was delivered, and another endpoint of the service is tried before the application hears of it.

use std::{net::IpAddr, sync::Arc};

use model::{
    ClientAddr, OriginalDst, PassthroughRoute, Permit, Refusal, Role, Snapshot, SpiffeId, SvidSource,
    TunnelRoute, Workload, WorkloadUid,
    authorize::{OutboundPermit, authorize_outbound},
    resolve::{Choice, NamedRoute, Pick, Resolved, Route, Way, resolve},
    service::Service,
};
use telemetry::{
    Ledger, Path, Proof, TraceId, TunnelEnds,
    metrics::{connect_retried, endpoint_set_aside},
};
use tokio::time::{Instant, timeout_at};
use tunnel::{ConnectFn, Connected, DialError, Phase, TunnelStream};

use crate::{
    PodSockets,
    direct::Entered,
    failure::{Failure, no_seat},
    faults::Dialed,
    headers::{connect_headers, new_trace},
    leg::Leg,
    serve::Pod,
    standing::{Leave, Place},
    turns::Turns,
};

/// Addresses of one host name that are tried.
const ADDRESSES_OF_A_NAME: u32 = 3;

pub(crate) enum Upstream {
    Tunnel(Box<TunnelStream>),
    /// Past the mesh, for as long as that is allowed.
    Plaintext(Box<Leg>, Place<Leave>),
    Neighbour(Box<Entered>),
}

/// Who connects, as one state knows it.
struct Outset<'a> {
    snapshot: &'a Snapshot,
    source: &'a Arc<Workload>,
    client: ClientAddr,
}

/// An attempt that came to nothing.
struct Stumble {
    failure: Failure,
    /// The identities that the two ends have proven to each other none the less.
    proven: Option<(SpiffeId, SpiffeId)>,
}

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    /// Whatever is tried, it is over at `until`.
    pub(crate) async fn connect_upstream(
        &self,
        client: ClientAddr,
        destination: OriginalDst,
        until: Instant,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Failure> {
        let mut turns = Turns::new(self.proxy.settings.attempts.max(1), until);
        let connected = self.connect_somewhere(client, destination, &mut turns, ledger).await;
        connected.map_err(|Stumble { failure, proven }| {
            if let Some((own, peer)) = proven {
                ledger.set_identities(own, peer, Proof::MutualTls);
            }
            failure
        })
    }

    /// Whoever is not known yet is asked for: an unknown workload must not be taken for an outsider, who gets plaintext.
    async fn learn(&self, destination: IpAddr, until: Instant) -> Result<(), Failure> {
        let Some(demand) = &self.proxy.settings.demand else { return Ok(()) };
        let learning = async {
            demand.local(&self.local.uid).await?;
            match self.snapshot().workload(&self.local.uid) {
                Some(source) => demand.destination(source, destination).await,
                None => Ok(()),
            }
        };
        Ok(timeout_at(until, learning).await.map_err(|_| Failure::Deadline)??)
    }

    /// Each attempt is made by the state of its own time: what is gone by then is not tried, what is forbidden by then not
    /// done, what was given up by then learned again. Who has been of the mesh does not become an outsider in between.
    async fn connect_somewhere(
        &self,
        client: ClientAddr,
        destination: OriginalDst,
        turns: &mut Turns,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Stumble> {
        let mut tried: Vec<WorkloadUid> = Vec::new();
        let mut last: Option<Stumble> = None;
        loop {
            self.learn(destination.0.ip(), turns.end()).await?;
            let snapshot = self.snapshot();
            let source = self.source(&snapshot)?;
            ledger.set_source(source);
            refuse_loop(source, client, destination)?;
            let outset = Outset { snapshot: &snapshot, source, client };
            let Resolved { way, pick } = self.resolve(&outset, destination, &tried)?;
            if let Some(last) = last.take_if(|_| is_to_outsider(&way)) {
                return Err(last);
            }
            let is_to_tunnel = matches!(way, Way::Route(Route::Tunnel(_)));
            let others = pick.as_ref().is_some_and(|pick| pick.alternatives);
            // Without a certificate nobody can be reached, and nobody else is to blame for the wait.
            let own_fault = || is_to_tunnel && !self.proxy.tunnel.has_svid(&outset.source.identity);
            let may_turn = others && !own_fault();
            let until = turns.next(Instant::now(), may_turn).ok_or(Failure::Deadline)?;
            let attempt = Box::pin(self.attempt(&outset, way, until, ledger));
            let result = timeout_at(until, attempt).await.unwrap_or_else(|_| Err(late(own_fault()).into()));
            let Some(pick) = pick else { return result };
            let stumble = match result {
                Ok(upstream) => {
                    self.outliers.lock().succeeded(&pick.service, &pick.endpoint);
                    return Ok(upstream);
                }
                Err(stumble) if !stumble.failure.is_of_endpoint() => return Err(stumble),
                Err(stumble) => stumble,
            };
            self.note_failure(&pick, &stumble.failure);
            if !others || turns.are_over() {
                return Err(stumble);
            }
            connect_retried(stumble.failure.reason());
            tried.push(pick.endpoint);
            last = Some(stumble);
        }
    }

    fn resolve(
        &self,
        outset: &Outset<'_>,
        destination: OriginalDst,
        tried: &[WorkloadUid],
    ) -> Result<Resolved, Refusal> {
        let mut choice = Choice { dice: rand::random(), tried, outliers: None };
        let outliers = self.outliers.lock();
        if outliers.is_empty() {
            drop(outliers);
            return resolve(outset.snapshot, outset.source, destination, &choice);
        }
        choice.outliers = Some((&outliers, Instant::now().into_std()));
        resolve(outset.snapshot, outset.source, destination, &choice)
    }

    fn note_failure(&self, pick: &Pick, failure: &Failure) {
        let now = Instant::now().into_std();
        let set_aside = self.outliers.lock().failed(&pick.service, &pick.endpoint, now);
        if let Some(length) = set_aside {
            endpoint_set_aside();
            let (service, port) = &pick.service;
            self.proxy.log.warn(
                "endpoint_set_aside",
                &pick.endpoint,
                format_args!("{service}:{port}, for {} s: {failure}", length.as_secs()),
            );
        }
    }

    async fn attempt(
        &self,
        outset: &Outset<'_>,
        way: Way,
        until: Instant,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Stumble> {
        match way {
            Way::Route(route) => self.connect_along(outset, route, ledger).await,
            Way::ByName(named) => self.connect_by_name(outset, &named, until, ledger).await,
        }
    }

    /// One address of the name after the other.
    async fn connect_by_name(
        &self,
        outset: &Outset<'_>,
        named: &NamedRoute,
        until: Instant,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Stumble> {
        record(ledger, Some(named.destination()), named.service(), Path::Unresolved);
        let answer = self.proxy.names.addresses(named.hostname()).await.map_err(Failure::Name)?;
        let addresses: Vec<IpAddr> = named.candidates(outset.source, &answer, rand::random())?;
        let mut turns = Turns::new(ADDRESSES_OF_A_NAME, until);
        let mut last = Stumble::from(Failure::Deadline);
        for (index, &ip) in addresses.iter().enumerate() {
            let others = index + 1 < addresses.len();
            let Some(until) = turns.next(Instant::now(), others) else { break };
            let attempt = self.connect_at(outset.client, named, ip, until, ledger);
            match timeout_at(until, attempt).await {
                Ok(Err(stumble)) if stumble.failure.is_of_endpoint() => last = stumble,
                Ok(result) => return result,
                Err(_) => last = Failure::Deadline.into(),
            }
        }
        Err(last)
    }

    /// The state is that of after the look-up, and of after the control plane was asked who has the address.
    async fn connect_at(
        &self,
        client: ClientAddr,
        named: &NamedRoute,
        ip: IpAddr,
        until: Instant,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Stumble> {
        self.learn(ip, until).await?;
        let snapshot = self.snapshot();
        let outset = Outset { snapshot: &snapshot, source: self.source(&snapshot)?, client };
        let route = named.at(&snapshot, outset.source, ip)?;
        self.connect_along(&outset, route, ledger).await
    }

    fn source<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a Arc<Workload>, Refusal> {
        let uid = &self.local.uid;
        self.own(snapshot)?.ok_or_else(|| Refusal::UnknownSource(uid.clone()))
    }

    async fn connect_along(
        &self,
        outset: &Outset<'_>,
        route: Route,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Stumble> {
        record_route(ledger, &route);
        // The same in all attempts.
        let trace = ledger.trace().unwrap_or_else(new_trace);
        match authorize_outbound(outset.snapshot, outset.source, route)? {
            OutboundPermit::Tunnel(permit) => {
                ledger.set_trace(trace);
                match self.shorten(permit, outset.client) {
                    Ok(direct) => Ok(Upstream::Neighbour(Box::new(self.enter(direct, trace, ledger).await?))),
                    Err(permit) => self.dial(outset, permit, trace, ledger).await,
                }
            }
            OutboundPermit::Passthrough(permit) => Ok(self.pass_through(permit, outset.source).await?),
        }
    }

    async fn dial(
        &self,
        outset: &Outset<'_>,
        permit: Permit<TunnelRoute>,
        trace: TraceId,
        ledger: &mut Ledger,
    ) -> Result<Upstream, Stumble> {
        let route = permit.route();
        let headers = connect_headers(outset.source, outset.client, route.service.as_deref(), trace);
        let own = route.source.clone();
        let only_expected = sole(&route.expected);
        let (sockets, room) = (Arc::clone(&self.sockets), self.room.clone());
        let proxy = Arc::downgrade(&self.proxy);
        let ends = TunnelEnds {
            role: Role::Outbound,
            local: self.local.uid.clone(),
            client: None,
            server: route.gateway,
            source: own.clone(),
            destination: route.destination.identity.clone(),
        };
        let connect: ConnectFn = Box::new(move |server| {
            Box::pin(async move {
                let _seat = room.take().ok_or_else(no_seat)?;
                let stream = sockets.connect(server).await?;
                Ok(Connected { stream, held: Box::new(Dialed { proxy, ends, _seat }) })
            })
        });
        match self.proxy.tunnel.dial(permit, headers, connect).await {
            Ok(dialed) => {
                ledger.set_identities(own, dialed.peer, Proof::MutualTls);
                Ok(Upstream::Tunnel(Box::new(dialed.stream)))
            }
            Err(error) => {
                self.note_limit(&error);
                // Who answers has proven its identity before.
                let answered = matches!(error, DialError::Refused(_));
                let proven = only_expected.filter(|_| answered).map(|peer| (own, peer));
                Err(Stumble { failure: error.into(), proven })
            }
        }
    }

    fn note_limit(&self, error: &DialError) {
        if let DialError::PoolFull | DialError::SourcePoolFull | DialError::Windows = error {
            self.limited(error.reason());
        }
    }

    async fn pass_through(
        &self,
        permit: Permit<PassthroughRoute>,
        source: &Arc<Workload>,
    ) -> Result<Upstream, Failure> {
        let seat = self.room.take().ok_or(Failure::Crowded)?;
        let PassthroughRoute { target, destination, service, .. } = permit.into_route();
        let place = self.leave(Leave {
            source: Arc::clone(source),
            target,
            destination: destination.as_ref().map(|destination| destination.uid.clone()),
            service: service.as_ref().map(|service| service.key()),
        })?;
        let connected = match destination {
            // Through its service a pod has reached itself: it must not be captured a second time.
            Some(destination) if destination.uid == source.uid => {
                self.sockets.connect_application(None, target).await
            }
            _ => self.sockets.connect(target).await,
        };
        let stream = connected.map_err(|source| Failure::Connect { target, source })?;
        Ok(Upstream::Plaintext(Box::new(Leg::new(stream, seat)?), place))
    }

    /// Judged once more after it is entered, so that no change of the state falls between the two.
    fn leave(&self, leave: Leave) -> Result<Place<Leave>, Refusal> {
        let place = self.outside.enter(leave);
        place.check(&self.snapshot())?;
        Ok(place)
    }
}

impl<E: Into<Failure>> From<E> for Stumble {
    fn from(error: E) -> Self {
        Self { failure: error.into(), proven: None }
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

/// What took too long: our own certificate, or the endpoint.
fn late(own_fault: bool) -> Failure {
    if own_fault { DialError::Deadline(Phase::Svid).into() } else { Failure::Deadline }
}

fn is_to_outsider(way: &Way) -> bool {
    matches!(way, Way::Route(Route::Passthrough(PassthroughRoute { destination: None, service: None, .. })))
}

fn record_route(ledger: &mut Ledger, route: &Route) {
    match route {
        Route::Tunnel(route) => {
            let path = Path::Tunnel { gateway: route.gateway, target: route.authority };
            record(ledger, Some(&route.destination), route.service.as_ref(), path);
        }
        Route::Passthrough(route) => {
            let path = Path::Passthrough { target: route.target };
            record(ledger, route.destination.as_ref(), route.service.as_ref(), path);
        }
    }
}

fn record(
    ledger: &mut Ledger,
    destination: Option<&Arc<Workload>>,
    service: Option<&Arc<Service>>,
    path: Path,
) {
    if let Some(destination) = destination {
        ledger.set_destination(destination);
    }
    if let Some(service) = service {
        ledger.set_service(service);
    }
    ledger.set_path(path);
}

fn sole(expected: &[SpiffeId]) -> Option<SpiffeId> {
    match expected {
        [only] => Some(only.clone()),
        _ => None,
    }
}
