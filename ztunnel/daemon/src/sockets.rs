//! Where the proxy and DNS meet the redirection: an enrolled pod's sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use dns::Listeners;
use model::Role;
use proxy::{Arrival, PodSockets};
use redirect::{Accepted, Conntrack, DnsListeners, EnrolledPod};
use tokio::net::{TcpStream, UdpSocket};

pub(crate) struct Sockets(pub(crate) Arc<EnrolledPod>);

impl PodSockets for Sockets {
    fn address(&self, like: IpAddr) -> Option<IpAddr> {
        let same_family = |ip: &IpAddr| ip.is_ipv4() == like.is_ipv4();
        self.0.is_captured().then(|| self.0.spec().addresses().find(same_family)).flatten()
    }

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

pub(crate) struct DnsSockets {
    pod: Arc<EnrolledPod>,
    /// Since the first request that was to be handed on.
    conntrack: OnceLock<Conntrack>,
}

impl DnsSockets {
    pub(crate) fn new(pod: Arc<EnrolledPod>) -> Self {
        Self { pod, conntrack: OnceLock::new() }
    }

    fn conntrack(&self) -> io::Result<&Conntrack> {
        match self.conntrack.get() {
            Some(conntrack) => Ok(conntrack),
            None => {
                let opened = self.pod.namespace().conntrack()?;
                Ok(self.conntrack.get_or_init(|| opened))
            }
        }
    }
}

impl dns::PodSockets for DnsSockets {
    fn listen(&self) -> io::Result<Listeners> {
        let DnsListeners { udp, tcp } = self.pod.namespace().listen_for_dns()?;
        Ok(Listeners { udp, tcp })
    }

    fn original_of_datagram(&self, client: SocketAddr, arrived_at: SocketAddr) -> io::Result<SocketAddr> {
        self.conntrack()?.original_destination(client, arrived_at)
    }

    fn original_of_stream(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        redirect::original_destination(stream)
    }

    fn datagrams_to(&self, target: SocketAddr) -> io::Result<UdpSocket> {
        self.pod.namespace().datagrams_to(target)
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        self.pod.connect(target).await
    }
}
