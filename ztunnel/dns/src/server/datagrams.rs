//! Requests over UDP. What state answers is answered where it is read; what is handed on waits in a task of its own, of
//! which a pod has only so many.

use std::{io, net::SocketAddr, sync::Arc};

use telemetry::metrics::{dns_forwarded, limit_hit};
use tokio::{net::UdpSocket, task::yield_now};

use super::{Decision, Pod, forwardable};
use crate::{
    MAX_QUERY, PodSockets, Transport,
    share::Place,
    upstream::{ForwardError, Request, by_datagram},
};

/// Requests of one pod in a row, before others that wait for this thread have their turn.
const IN_A_ROW: usize = 8;

impl<P: PodSockets> Pod<P> {
    /// Never ends but by an error.
    pub(super) async fn datagrams(self: &Arc<Self>, socket: UdpSocket) -> io::Error {
        let arrived_at = match socket.local_addr() {
            Ok(address) => address,
            Err(error) => return error,
        };
        let socket = Arc::new(socket);
        // One byte more, which shows that a datagram is too long.
        let mut answered = 0_usize;
        let mut buffer = vec![0; MAX_QUERY + 1];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => return error,
            };
            answered += 1;
            if answered.is_multiple_of(IN_A_ROW) {
                yield_now().await;
            }
            if self.admit().is_err() {
                continue;
            }
            match self.decide(&buffer[..length], Transport::Udp) {
                Decision::Ignore => {}
                Decision::Reply(reply) => send(&socket, &reply, client),
                Decision::Forward(request) => {
                    let message = buffer[..length].to_vec();
                    self.hand_on((message, request), &socket, client, arrived_at);
                }
            }
        }
    }

    fn hand_on(
        self: &Arc<Self>,
        (message, request): (Vec<u8>, Request),
        socket: &Arc<UdpSocket>,
        client: SocketAddr,
        arrived_at: SocketAddr,
    ) {
        let Some(place) = self.place() else {
            return send(socket, &self.failed(&request, &ForwardError::TooMany), client);
        };
        let (pod, socket) = (Arc::clone(self), Arc::clone(socket));
        self.spawn(async move {
            if let Some(reply) = pod.learned(&message, Transport::Udp).await {
                return send(&socket, &reply, client);
            }
            let answer = pod.ask(&request, client, arrived_at).await;
            send(&socket, &answer.unwrap_or_else(|error| pod.failed(&request, &error)), client);
            drop(place);
        });
    }

    async fn ask(
        &self,
        request: &Request,
        client: SocketAddr,
        arrived_at: SocketAddr,
    ) -> Result<Vec<u8>, ForwardError> {
        let original =
            self.sockets.original_of_datagram(client, arrived_at).map_err(ForwardError::NoTarget)?;
        let target = forwardable(original, arrived_at)?;
        dns_forwarded();
        by_datagram(&*self.sockets, &self.server.settings, request, target).await
    }

    /// To wait for another server.
    pub(super) fn place(&self) -> Option<Place> {
        let place = self.forwards.take();
        if place.is_none() {
            limit_hit("dns_forwards");
        }
        place
    }
}

/// A datagram that finds no room is lost, as any may be.
fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    let _ = socket.try_send_to(reply, client);
}
