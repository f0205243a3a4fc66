//! Takes the connections that were steered to one of a pod's listeners, and starts their journeys.
//!
//! Each is taken in a turn of the pod's, like every step of its making, and only when there is room for it: until then it
//! waits in the kernel's queue, which belongs to this listener alone.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use model::{Role, SvidSource};
use telemetry::metrics::{accept_failed, connections_limited, limit_hit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tunnel::Lane;

use crate::{
    Arrival, PodSockets,
    limits::{ACCEPTS, PENDING},
    pace::Pace,
    room::Seat,
    serve::Pod,
};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One of those that are being made, until it is dropped. Inbound handshakes are bounded by their gate instead, which
/// stalling ones cannot fill for long.
pub(crate) type Pending = Option<OwnedSemaphorePermit>;

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    /// Never ends by itself. Out of descriptors or memory, accept(2) fails at once and for as long as that lasts:
    /// trying again without a pause would burn a core.
    pub(crate) async fn accept_all(self: &Arc<Self>, role: Role) {
        let limits = &self.proxy.settings.limits;
        let mut pace = Pace::new(limits.accepts_per_second, limits.accept_burst);
        let pending = Arc::new(Semaphore::new(limits.pending_per_pod));
        let mut pause = FIRST_PAUSE;
        loop {
            if pace.wait().await {
                self.limited(ACCEPTS);
            }
            let place = self.place_for(role, &pending).await;
            let accepting = self.sockets.accept(role);
            match self.proxy.tunnel.turnstile().pass(self.own_lane(), accepting).await {
                Ok(arrival) => {
                    pause = FIRST_PAUSE;
                    pace.count();
                    let Some(seat) = self.seat(role).await else { return };
                    self.start(role, arrival, seat, place);
                }
                Err(error) => {
                    self.accept_failed(role, &error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// What is done for the pod before anybody is known to have caused it, or was caused by itself.
    pub(crate) fn own_lane(&self) -> Lane {
        self.lane(Ipv4Addr::UNSPECIFIED.into())
    }

    pub(crate) fn lane(&self, source: IpAddr) -> Lane {
        Lane { pod: self.local.uid.clone(), source }
    }

    /// Says that a limit has taken effect.
    pub(crate) fn limited(&self, limit: &'static str) {
        limit_hit(limit);
        self.proxy.log.warn(limit, &self.local.uid, "the limit is reached");
    }

    async fn place_for(&self, role: Role, pending: &Arc<Semaphore>) -> Pending {
        if role == Role::InboundHbone {
            return None;
        }
        if pending.available_permits() == 0 {
            self.limited(PENDING);
        }
        Arc::clone(pending).acquire_owned().await.ok()
    }

    /// One who arrived waits here, all others in the kernel's queue, until some connection has ended.
    async fn seat(&self, role: Role) -> Option<Seat> {
        if self.room.has_none() {
            connections_limited();
            self.proxy.log.warn("crowded", &self.local.uid, format_args!("{role:?}: no descriptor to spare"));
        }
        self.room.wait().await
    }

    fn start(self: &Arc<Self>, role: Role, arrival: Arrival, seat: Seat, place: Pending) {
        let pod = Arc::clone(self);
        match role {
            Role::Outbound => self.spawn(pod.outbound(arrival, seat, place)),
            Role::InboundPlaintext => self.spawn(pod.inbound_plaintext(arrival, seat, place)),
            Role::InboundHbone => self.spawn(pod.inbound_tunnel(arrival, seat)),
        }
    }

    fn accept_failed(&self, role: Role, error: &io::Error) {
        accept_failed();
        self.proxy.log.warn("accept", &self.local.uid, format_args!("{role:?}: {error}"));
    }
}
