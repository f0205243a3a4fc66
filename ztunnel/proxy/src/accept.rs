//! Takes the connections that were steered to one of a pod's listeners, and starts their journeys.

use std::{io, sync::Arc, time::Duration};

use model::{Role, SvidSource};
use telemetry::metrics::{accept_failed, connections_limited};

use crate::{Arrival, PodSockets, room::Seat, serve::Pod};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    /// Never ends by itself. Out of descriptors or memory, accept(2) fails at once and for as long as that lasts:
    /// trying again without a pause would burn a core.
    pub(crate) async fn accept_all(self: &Arc<Self>, role: Role) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.sockets.accept(role).await {
                Ok(arrival) => {
                    pause = FIRST_PAUSE;
                    let Some(seat) = self.seat(role).await else { return };
                    self.start(role, arrival, seat);
                }
                Err(error) => {
                    self.accept_failed(role, &error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// One who arrived waits here, all others in the kernel's queue, until some connection has ended.
    async fn seat(&self, role: Role) -> Option<Seat> {
        if self.room.has_none() {
            connections_limited();
            self.proxy.log.warn("crowded", &self.local.uid, format_args!("{role:?}: no descriptor to spare"));
        }
        self.room.wait().await
    }

    fn start(self: &Arc<Self>, role: Role, arrival: Arrival, seat: Seat) {
        let pod = Arc::clone(self);
        match role {
            Role::Outbound => self.spawn(pod.outbound(arrival, seat)),
            Role::InboundPlaintext => self.spawn(pod.inbound_plaintext(arrival, seat)),
            Role::InboundHbone => self.spawn(pod.inbound_tunnel(arrival, seat)),
        }
    }

    fn accept_failed(&self, role: Role, error: &io::Error) {
        accept_failed();
        self.proxy.log.warn("accept", &self.local.uid, format_args!("{role:?}: {error}"));
    }
}
