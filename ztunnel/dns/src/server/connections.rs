//! Requests over TCP, one after the other on each connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use telemetry::metrics::{dns_forwarded, limit_hit};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{Decision, Pod, forwardable};
use crate::{
    MAX_QUERY, PodSockets, Transport,
    share::Place,
    stream::{read_body, read_length, write_message},
    upstream::{ForwardError, Request, by_stream},
};

/// Out of descriptors, accept(2) fails at once and for as long as that lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often one who waits looks whether there is room.
const SEAT_PAUSE: Duration = Duration::from_millis(20);

impl<P: PodSockets> Pod<P> {
    /// Never ends but by an error. One who is one too many waits here, all others in the kernel's queue.
    pub(super) async fn streams(self: &Arc<Self>, listener: TcpListener) -> io::Error {
        let arrived_at = match listener.local_addr() {
            Ok(address) => address,
            Err(error) => return error,
        };
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if is_passing(&error) => {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                Err(error) => return error,
            };
            let place = self.seat().await;
            let pod = Arc::clone(self);
            self.spawn(async move {
                // How a connection ends is the pod's business.
                let _ = pod.converse(stream, arrived_at).await;
                drop(place);
            });
        }
    }

    /// What makes room is another pod's end of a connection as much as one's own, so it is looked for now and then.
    async fn seat(&self) -> Place {
        let mut waits = false;
        loop {
            if let Some(place) = self.connections.take() {
                return place;
            }
            if !waits {
                limit_hit("dns_connections");
                waits = true;
            }
            sleep(SEAT_PAUSE).await;
        }
    }

    async fn converse(&self, mut stream: TcpStream, arrived_at: SocketAddr) -> io::Result<()> {
        let settings = &self.server.settings;
        loop {
            let Some(length) = timeout(settings.idle_deadline, read_length(&mut stream)).await?? else {
                return Ok(());
            };
            let reading = read_body(&mut stream, length, MAX_QUERY);
            let message = timeout(settings.message_deadline, reading).await??;
            while let Err(wait) = self.admit() {
                sleep(wait).await;
            }
            let reply = match self.decide(&message, Transport::Tcp) {
                Decision::Ignore => return Ok(()),
                Decision::Reply(reply) => reply,
                Decision::Forward(request) => match self.learned(&message, Transport::Tcp).await {
                    Some(reply) => reply,
                    None => match self.ask_over(&stream, &request, arrived_at).await {
                        Ok(reply) => reply,
                        Err(error) => self.failed(&request, &error),
                    },
                },
            };
            timeout(settings.message_deadline, write_message(&mut stream, &reply)).await??;
        }
    }

    async fn ask_over(
        &self,
        stream: &TcpStream,
        request: &Request,
        arrived_at: SocketAddr,
    ) -> Result<Vec<u8>, ForwardError> {
        let _place = self.place().ok_or(ForwardError::TooMany)?;
        let original = self.sockets.original_of_stream(stream).map_err(ForwardError::NoTarget)?;
        let target = forwardable(original, arrived_at)?;
        dns_forwarded();
        by_stream(&*self.sockets, &self.server.settings, request, target).await
    }
}

/// Of the connection that was to come, or of this process, and not of the listener.
fn is_passing(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    error.kind() == io::ErrorKind::ConnectionAborted
        || matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
