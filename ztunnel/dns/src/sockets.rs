//! What the server asks of a pod's network namespace.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Where a pod's requests arrive: for each family that the pod has.
#[derive(Debug)]
pub struct Listeners {
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
}

/// The only door to the kernel: sockets in one pod's network namespace. What is opened there goes out with the pod's
/// own address, and is not redirected back to us.
pub trait PodSockets: Send + Sync + 'static {
    fn listen(&self) -> io::Result<Listeners>;

    /// Whom `client` had sent a datagram to that came in at `arrived_at` instead. An error if it was redirected by nobody.
    fn original_of_datagram(&self, client: SocketAddr, arrived_at: SocketAddr) -> io::Result<SocketAddr>;

    /// Whom this connection was meant for.
    fn original_of_stream(&self, stream: &TcpStream) -> io::Result<SocketAddr>;

    /// Hears from `target` alone, on a port that nobody can foresee.
    fn datagrams_to(&self, target: SocketAddr) -> io::Result<UdpSocket>;

    fn connect(&self, target: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send;
}
