//! The journey into a pod through the tunnel. Nobody has an identity before TLS has proven it, and the application
//! hears of nobody before policy has let them in.

use std::{net::SocketAddr, sync::Arc};

use model::{
    ClientAddr, NetworkAddress, OriginalDst, Refusal, Role, Snapshot, SpiffeId, SvidSource, Workload,
    resolve::{Asked, resolve_authority},
};
use telemetry::{
    End, Ledger, Outcome, Path, Proof, TunnelEnds,
    metrics::{handshake_failed, limit_hit, requests_rejected},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tunnel::{Rejection, Request, Session};

use crate::{
    Arrival, PodSockets,
    copy::through_tunnel,
    failure::Failure,
    headers::{baggage, trace_of},
    leg::Leg,
    limits::{HANDSHAKES, INBOUND_CONNECTIONS, INBOUND_TUNNELS},
    own_legs::OwnLeg,
    room::Seat,
    serve::{Pod, Source},
    shares::Share,
    standing::{Claim, Place},
};

/// Who asks to come in; all streams of one tunnel share it.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) client: ClientAddr,
    pub(crate) arrived_at: OriginalDst,
    pub(crate) peer: SpiffeId,
    /// Who the peer has met; the workload may have become somebody else since.
    pub(crate) own: SpiffeId,
    pub(crate) proof: Proof,
}

impl Guest {
    fn path(&self, target: SocketAddr) -> Path {
        match self.proof {
            Proof::MutualTls => Path::Tunnel { gateway: self.arrived_at.0, target },
            Proof::Enrolment => Path::Direct { target },
        }
    }
}

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    pub(crate) async fn inbound_tunnel(self: Arc<Self>, arrival: Arrival, _seat: Seat) {
        let Arrival { stream, client, destination } = arrival;
        // Boxed, so that a session that stands no longer holds what the handshake took.
        let Some((mut session, own)) = Box::pin(self.handshake(stream, client, destination)).await else {
            return;
        };
        let (peer, proof) = (session.peer().clone(), Proof::MutualTls);
        let shared = Guest { client, arrived_at: destination, peer, own, proof };
        let ends = self.tunnel_of(&shared);
        let Some(_share) = self.tunnels.take((shared.peer.clone(), client.0.ip())) else {
            limit_hit(INBOUND_TUNNELS);
            self.proxy.fault(&ends, INBOUND_TUNNELS, "as many tunnels as it may have");
            return;
        };
        self.serve_session(&mut session, &shared).await;
        for (rejection, count) in session.rejected() {
            requests_rejected(rejection.reason(), count);
            if rejection == Rejection::Windows {
                limit_hit(rejection.reason());
            }
            self.proxy.fault(&ends, rejection.reason(), rejection);
        }
        if let Some(end) = session.end().filter(|end| end.is_breach()) {
            self.proxy.broken(&ends, end);
        }
    }

    fn tunnel_of(&self, guest: &Guest) -> TunnelEnds {
        TunnelEnds {
            role: Role::InboundHbone,
            local: self.local.uid.clone(),
            client: Some(guest.client.0),
            server: guest.arrived_at.0,
            source: guest.peer.clone(),
            destination: guest.own.clone(),
        }
    }

    /// One of many at most; see [`crate::gate`].
    async fn handshake(
        &self,
        stream: TcpStream,
        client: ClientAddr,
        arrived_at: OriginalDst,
    ) -> Option<(Session, SpiffeId)> {
        let evicted = CancellationToken::new();
        let _places = (
            self.handshakes.enter(client.0.ip(), &evicted),
            self.proxy.handshakes.enter(self.local.uid.clone(), &evicted),
        );
        let snapshot = self.snapshot();
        let Some(workload) = snapshot.workload(&self.local.uid) else {
            self.refuse_handshake(client, arrived_at, "unknown_workload", &self.local.uid);
            return None;
        };
        let tunnel = &self.proxy.tunnel;
        let terminating = tunnel.terminate(stream, &workload.identity);
        let began = Instant::now();
        let taking_turns = tunnel.turnstile().pass(self.lane(client.0.ip()), terminating);
        match evicted.run_until_cancelled(taking_turns).await {
            Some(Ok(session)) => {
                self.proxy.ledgers.timings().handshake_inbound.record(began.elapsed());
                Some((session, workload.identity.clone()))
            }
            Some(Err(error)) => {
                self.refuse_handshake(client, arrived_at, error.reason(), error);
                None
            }
            None => {
                limit_hit(HANDSHAKES);
                self.refuse_handshake(
                    client,
                    arrived_at,
                    "handshake_evicted",
                    "too many handshakes are under way",
                );
                None
            }
        }
    }

    fn refuse_handshake(
        &self,
        client: ClientAddr,
        arrived_at: OriginalDst,
        reason: &'static str,
        error: impl std::fmt::Display,
    ) {
        handshake_failed(reason);
        self.proxy.ledgers.refusals().note_handshake(&self.local.uid, client, arrived_at.0, reason, &error);
        self.proxy.log.warn(reason, client.0, error);
    }

    /// A session that begins after the drain did is served in full: nobody else would.
    async fn serve_session(self: &Arc<Self>, session: &mut Session, shared: &Guest) {
        let drain = &self.stop.drain;
        let mut drained = drain.is_cancelled();
        loop {
            tokio::select! {
                request = session.next() => match request {
                    Some(request) => {
                        // Boxed: each step that they are handed to has room for them.
                        let (request, guest) = (Box::new(request), Box::new(shared.clone()));
                        self.spawn(Arc::clone(self).stream(request, guest));
                    }
                    None => return,
                },
                () = drain.cancelled(), if !drained => {
                    session.drain();
                    drained = true;
                }
            }
        }
    }

    /// One CONNECT: resolve, authorize, connect to the application, and only then answer 200.
    async fn stream(self: Arc<Self>, request: Box<Request>, guest: Box<Guest>) {
        let (mut ledger, client) = (self.open_ledger(&guest), guest.client);
        ledger.set_trace(trace_of(request.headers()));
        let outcome = match self.share_of(Source::Proven(guest.peer.clone())) {
            Ok(_share) => match self.admit(request.authority(), *guest, &mut ledger) {
                Ok((workload, place)) => self.carry_in(request, &workload, place, client, &mut ledger).await,
                Err(refusal) => refuse(*request, Failure::from(refusal)),
            },
            Err(failure) => refuse(*request, failure),
        };
        ledger.close(&outcome);
    }

    pub(crate) fn open_ledger(&self, guest: &Guest) -> Ledger {
        let uid = self.local.uid.clone();
        self.proxy.ledgers.open(Role::InboundHbone, uid, guest.client, guest.arrived_at)
    }

    pub(crate) fn admit(
        &self,
        authority: &str,
        guest: Guest,
        ledger: &mut Ledger,
    ) -> Result<(Arc<Workload>, Place<Claim>), Refusal> {
        let snapshot = self.snapshot();
        let workload = self.workload(&snapshot)?;
        ledger.set_destination(workload);
        let Guest { client, arrived_at: OriginalDst(arrived_at), proof, .. } = guest;
        if let Some(source) = proven_source(&snapshot, workload, client, &guest.peer) {
            ledger.set_source(source);
        }
        ledger.set_identities(guest.peer.clone(), guest.own.clone(), proof);
        let Asked { target, named } = resolve_authority(&snapshot, workload, arrived_at.ip(), authority)?;
        ledger.set_path(guest.path(target));
        let (workload, judgement) = (Arc::clone(workload), ledger.judgement());
        let peer = Some(guest.peer);
        let claim = Claim { workload: Arc::clone(&workload), client, peer, target, named, judgement };
        Ok((workload, self.standing.enter(claim)))
    }

    async fn carry_in(
        &self,
        mut request: Box<Request>,
        workload: &Workload,
        mut place: Place<Claim>,
        client: ClientAddr,
        ledger: &mut Ledger,
    ) -> Outcome {
        let lane = self.lane(client.0.ip());
        // Boxed, so that a connection that stands no longer holds what making it took.
        let connecting = Box::pin(self.proxy.tunnel.turnstile().pass(lane, self.connect_application(&place)));
        let connected = tokio::select! {
            connected = connecting => connected,
            gone = request.broken() => Err(gone.into()),
        };
        let (leg, _own) = match connected {
            Ok(connected) => connected,
            Err(failure) => return refuse(*request, failure),
        };
        let stream = match request.accept(&baggage(workload)) {
            Ok(stream) => stream,
            Err(error) => return Failure::from(error).into_outcome(),
        };
        ledger.establish();
        let carrying = Box::pin(through_tunnel(leg, stream, End::Destination, ledger.counters()));
        // What was revoked while it was being connected carries no byte.
        tokio::select! {
            biased;
            refusal = place.revoked() => Outcome::Refused(refusal),
            outcome = carrying => outcome,
        }
    }

    /// One of the connections that this source may have to the pod.
    pub(crate) fn share_of(&self, source: Source) -> Result<Share<Source>, Failure> {
        self.incoming.take(source).ok_or_else(|| {
            self.limited(INBOUND_CONNECTIONS);
            Failure::Limited(INBOUND_CONNECTIONS)
        })
    }

    pub(crate) fn workload<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a Arc<Workload>, Refusal> {
        let uid = &self.local.uid;
        self.own(snapshot)?.ok_or_else(|| Refusal::UnknownDestination(uid.to_string()))
    }

    /// Judged here and not earlier: the place is entered, so no change of policy goes unseen.
    pub(crate) async fn connect_application(&self, place: &Place<Claim>) -> Result<(Leg, OwnLeg), Failure> {
        let seat = self.room.take().ok_or(Failure::Crowded)?;
        let route = place.judge(&self.snapshot())?.into_route();
        let target = route.target;
        let began = Instant::now();
        let connecting = async {
            let mut stream = self.sockets.connect_application(route.source, target).await?;
            if route.is_told {
                stream.write_all(&place.header().write()).await?;
            }
            Ok(stream)
        };
        let connected = timeout(self.proxy.settings.connect_deadline, connecting).await;
        let stream = connected
            .map_err(|_| Failure::Deadline)?
            .map_err(|source| Failure::Application { target, source })?;
        self.proxy.ledgers.timings().application_connect.record(began.elapsed());
        let leg = Leg::new(stream, seat)?;
        let own: SocketAddr = leg.local_addr()?;
        Ok((leg, self.own_legs.enter((own, target))))
    }
}

fn refuse(request: Request, failure: Failure) -> Outcome {
    request.refuse(failure.status());
    failure.into_outcome()
}

/// The workload at the client's address, if the identity proven is its own: an address alone proves nothing.
fn proven_source<'a>(
    snapshot: &'a Snapshot,
    local: &Workload,
    ClientAddr(client): ClientAddr,
    peer: &SpiffeId,
) -> Option<&'a Arc<Workload>> {
    let address = NetworkAddress { network: local.network.clone(), ip: client.ip().to_canonical() };
    snapshot.workload_at(&address).filter(|workload| workload.identity == *peer)
}
