//! The journey out of a pod: the application connects to somebody.
//!
//! The kernel has completed the application's handshake before we see it, so a connection that cannot be made is
//! reset at once; it never looks like one that was made and ended well.

use std::sync::Arc;

use model::{ClientAddr, OriginalDst, Role, SvidSource};
use telemetry::{End, Ledger, Outcome};
use tokio::time::Instant;

use crate::{
    Arrival, PodSockets,
    accept::Pending,
    copy::{between_sockets, through_tunnel},
    failure::Failure,
    leg::Leg,
    limits::OUTBOUND_CONNECTIONS,
    room::Seat,
    serve::Pod,
    upstream::Upstream,
};

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    pub(crate) async fn outbound(self: Arc<Self>, arrival: Arrival, seat: Seat, place: Pending) {
        let Arrival { stream, client, destination } = arrival;
        let mut ledger = self.proxy.ledgers.open(Role::Outbound, self.local.uid.clone(), client, destination);
        let outcome = match Leg::new(stream, seat) {
            Ok(application) => self.carry_out(application, client, destination, place, &mut ledger).await,
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
        place: Pending,
        ledger: &mut Ledger,
    ) -> Outcome {
        let Some(_share) = self.outgoing.take(()) else {
            self.limited(OUTBOUND_CONNECTIONS);
            return Failure::Limited(OUTBOUND_CONNECTIONS).into_outcome();
        };
        let until = Instant::now() + self.proxy.settings.connect_deadline;
        // Boxed, so that a connection that stands no longer holds what making it took.
        let connecting = self.connect_upstream(client, destination, until, ledger);
        let connected = Box::pin(self.proxy.tunnel.turnstile().pass(self.own_lane(), connecting)).await;
        let upstream = match connected {
            Ok(upstream) => upstream,
            Err(failure) => return failure.into_outcome(),
        };
        drop(place);
        ledger.establish();
        let counters = ledger.counters();
        // Boxed, so that each takes what it needs, and not what the largest of them would.
        match upstream {
            Upstream::Tunnel(stream) => {
                Box::pin(through_tunnel(application, *stream, End::Source, counters)).await
            }
            Upstream::Plaintext(leg, mut place) => {
                let counters = [counters];
                let carrying = Box::pin(between_sockets(application, *leg, &counters, &self.proxy.pipes));
                tokio::select! {
                    biased;
                    refusal = place.revoked() => Outcome::Refused(refusal),
                    outcome = carrying => outcome,
                }
            }
            Upstream::Neighbour(entered) => {
                Box::pin(entered.carry(application, counters, &self.proxy.pipes)).await
            }
        }
    }
}
