//! The sockets of DNS inside a pod: where redirected requests arrive, and those that hand them on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::{NetworkNamespace, socket::DAEMON_MARK};

/// Where ambient meshes redirect a pod's DNS to.
const PORT: u16 = 15053;
const BACKLOG: i32 = 128;
/// What a redirection makes of the destination: nobody outside of the pod gets there.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// One for each address family that the pod has.
#[derive(Debug)]
pub struct DnsListeners {
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
}

impl NetworkNamespace {
    /// Listens on port 15053 of lo. To be called where the sockets are served.
    pub fn listen_for_dns(&self) -> io::Result<DnsListeners> {
        let mut listeners = DnsListeners { udp: Vec::new(), tcp: Vec::new() };
        for ip in LOOPBACK {
            let address = SocketAddr::new(ip, PORT);
            let (datagrams, streams) = match self.enter(|| bind(address))? {
                Ok(sockets) => sockets,
                Err(error) if is_missing_family(&error, ip) => continue,
                Err(error) => return Err(error),
            };
            listeners.udp.push(UdpSocket::from_std(datagrams.into())?);
            listeners.tcp.push(TcpListener::from_std(streams.into())?);
        }
        Ok(listeners)
    }

    /// Sends to `target` and hears from it alone, by a random port. The mark keeps it from being redirected to us.
    pub fn datagrams_to(&self, target: SocketAddr) -> io::Result<UdpSocket> {
        let domain = Domain::for_address(target);
        let socket = self.enter(|| Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)))??;
        socket.set_nonblocking(true)?;
        socket.set_mark(DAEMON_MARK)?;
        // The kernel chooses the port, at random.
        socket.connect(&target.into())?;
        UdpSocket::from_std(socket.into())
    }
}

/// Where a redirected connection was going, as netfilter remembers it; `SO_ORIGINAL_DST`, linux/netfilter_ipv4.h and
/// linux/netfilter_ipv6/ip6_tables.h.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let original = if stream.local_addr()?.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    original?.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn bind(address: SocketAddr) -> io::Result<(Socket, Socket)> {
    let open = |kind, protocol| {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        // A daemon that takes over listens beside the one that goes.
        socket.set_reuse_port(true)?;
        socket.set_mark(DAEMON_MARK)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    let datagrams = open(Type::DGRAM, Protocol::UDP)?;
    let streams = open(Type::STREAM, Protocol::TCP)?;
    streams.listen(BACKLOG)?;
    Ok((datagrams, streams))
}

/// IPv6 may be switched off, in the kernel or in the pod.
fn is_missing_family(error: &io::Error, ip: IpAddr) -> bool {
    let code = error.raw_os_error();
    ip.is_ipv6() && matches!(code, Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
