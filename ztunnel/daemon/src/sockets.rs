//! Where the proxy meets the redirection: an enrolled pod's sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use model::Role;
use proxy::{Arrival, PodSockets};
use redirect::{Accepted, EnrolledPod};
use tokio::net::TcpStream;

pub(crate) struct Sockets(pub(crate) Arc<EnrolledPod>);

impl PodSockets for Sockets {
    async fn accept(&self, role: Role) -> io::Result<Arrival> {
        let Accepted { stream, client, destination } = self.0.accept(role).await?;
        Ok(Arrival { stream, client, destination })
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        self.0.connect(target).await
    }

    async fn connect_application(&self, source: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
        self.0.connect_application(source, target).await
    }
}
