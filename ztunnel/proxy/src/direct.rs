//! The way from one pod of this node to another, past the network: no tunnel, and no packet on an interface of either.
//!
//! The destination's side is that of [`crate::inbound`], word for word: its ledger, its place in the book, its policies,
//! its application. Only that the identities are known from enrolment and not from TLS, and that one task carries the
//! bytes from socket to socket. Where anything is in the way, the tunnel is taken.

use std::sync::Arc;

use http::StatusCode;
use model::{ClientAddr, DirectRoute, OriginalDst, Permit, SvidSource, TunnelRoute};
use telemetry::{ByteCounters, Ledger, Outcome, Path, Proof, TraceId};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use crate::{
    PodSockets,
    copy::between_sockets,
    failure::Failure,
    inbound::Guest,
    leg::Leg,
    neighbours::Neighbour,
    own_legs::OwnLeg,
    pipes::Pipes,
    serve::{Pod, Source},
    shares::Share,
    standing::{Claim, Place},
};

/// Leave to go to a neighbour.
pub(crate) struct Direct {
    permit: Permit<DirectRoute>,
    neighbour: Arc<dyn Neighbour>,
    client: ClientAddr,
}

/// A connection that stands at its destination. The order is that of dropping: the pod waits for the last.
pub(crate) struct Entered {
    application: Leg,
    _own: OwnLeg,
    _share: Share<Source>,
    place: Place<Claim>,
    ledger: Ledger,
    cut: CancellationToken,
    _awaited: TaskTrackerToken,
}

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    #[expect(clippy::result_large_err, reason = "not an error: the permit as it was")]
    pub(crate) fn shorten(
        &self,
        permit: Permit<TunnelRoute>,
        client: ClientAddr,
    ) -> Result<Direct, Permit<TunnelRoute>> {
        if !self.proxy.settings.direct {
            return Err(permit);
        }
        let find = |route: &TunnelRoute| {
            let client = self.address_towards(route, client)?;
            Some((self.proxy.neighbours.end_of(route)?, client))
        };
        permit.shorten(find).map(|(permit, (neighbour, client))| Direct { permit, neighbour, client })
    }

    /// The source's part. `ledger` is its own; the neighbour opens another.
    pub(crate) async fn enter(
        &self,
        direct: Direct,
        trace: TraceId,
        ledger: &mut Ledger,
    ) -> Result<Entered, Failure> {
        let Direct { permit, neighbour, client } = direct;
        let DirectRoute { source: peer, target, destination } = permit.into_route();
        let (own, proof) = (destination.identity.clone(), Proof::Enrolment);
        ledger.set_path(Path::Direct { target });
        ledger.set_identities(peer.clone(), own.clone(), proof);
        let guest = Guest { client, arrived_at: OriginalDst(target), peer, own, proof };
        neighbour.receive(guest, trace).await
    }

    /// The destination's part.
    pub(crate) async fn let_neighbour_in(
        self: Arc<Self>,
        guest: Guest,
        trace: TraceId,
    ) -> Result<Entered, Failure> {
        // Held before the cut is looked at: who cuts the pod then waits for us.
        let (awaited, cut) = (self.tasks.token(), self.stop.cut.clone());
        let mut ledger = self.open_ledger(&guest);
        ledger.set_trace(trace);
        let connected = cut.run_until_cancelled(self.connect_neighbour(guest, &mut ledger)).await;
        match connected {
            Some(Ok((application, own, share, place))) => {
                ledger.establish();
                Ok(Entered { application, _own: own, _share: share, place, ledger, cut, _awaited: awaited })
            }
            Some(Err(failure)) => {
                let (status, outcome) = (failure.status(), failure.into_outcome());
                ledger.close(&outcome);
                Err(Failure::Neighbour { status, outcome })
            }
            None => Err(Failure::Neighbour {
                status: StatusCode::SERVICE_UNAVAILABLE,
                outcome: Outcome::Cancelled,
            }),
        }
    }

    async fn connect_neighbour(
        &self,
        guest: Guest,
        ledger: &mut Ledger,
    ) -> Result<(Leg, OwnLeg, Share<Source>, Place<Claim>), Failure> {
        let share = self.share_of(Source::Proven(guest.peer.clone()))?;
        let authority = guest.arrived_at.0.to_string();
        let (_, place) = self.admit(&authority, guest, ledger)?;
        let (application, own) = self.connect_application(&place).await?;
        Ok((application, own, share, place))
    }
}

impl Entered {
    /// Until either pod is cut, the destination's policies end it, or the applications do. Dropping it is the source's cut.
    pub(crate) async fn carry(self, source: Leg, counters: Arc<ByteCounters>, pipes: &Arc<Pipes>) -> Outcome {
        // Locals drop in reverse: the pod waits for the last.
        let Self { _awaited, cut, ledger, mut place, _share, _own, application } = self;
        let counters = [counters, ledger.counters()];
        // What was revoked while it was being connected carries no byte.
        let outcome = tokio::select! {
            biased;
            () = cut.cancelled() => Outcome::Cancelled,
            refusal = place.revoked() => Outcome::Refused(refusal),
            outcome = between_sockets(source, application, &counters, pipes) => outcome,
        };
        ledger.close(&outcome);
        outcome
    }
}
