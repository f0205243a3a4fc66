//! The connections that the daemon opens inside a pod's namespace.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
};

use abi::{STEER_MARK, owner};
use rand::Rng;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::{NetworkNamespace, bpf, egress};

/// `SO_MARK` of the daemon's own sockets that are not steered, and of those that its listeners accept: the mark that
/// ambient meshes give to their proxies' sockets. It routes nothing and protects nothing; it only tells the proxy's
/// connections from the application's when a pod's sockets are listed.
pub(crate) const DAEMON_MARK: u32 = 0x539;
/// Ports for source-preserving connections: below the ports that clients are given by default (32768 to 60999), so
/// that a client's own connection rarely meets the same four addresses and ports in the pod.
const SOURCE_PORTS: std::ops::Range<u16> = 1024..32768;
/// Attempts to find such a port.
const MAX_ATTEMPTS: usize = 16;

/// From the pod's own address to anywhere, never captured. Where our programs capture, they know our sockets by `owners`;
/// a CNI's rules know them by their mark.
pub(crate) async fn connect(
    namespace: &NetworkNamespace,
    owners: Option<BorrowedFd<'_>>,
    target: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = open(namespace, owners, target, DAEMON_MARK)?;
    if owners.is_some() {
        bind_to_egress(namespace, &socket, target.ip());
    }
    into_tokio(socket).connect(target).await
}

/// To the application in the pod, as if from `source`. Marked and bound to lo, so that the lookup program passes it
/// on and the answer comes back here; a CNI's rules do both by the mark alone.
pub(crate) async fn connect_application(
    namespace: &NetworkNamespace,
    owners: Option<BorrowedFd<'_>>,
    source: Option<IpAddr>,
    target: SocketAddr,
) -> io::Result<TcpStream> {
    let Some(source) = source else { return connect(namespace, owners, target).await };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mark = if owners.is_some() { STEER_MARK } else { DAEMON_MARK };
    for _ in 0..MAX_ATTEMPTS {
        let port = rand::rng().random_range(SOURCE_PORTS);
        let socket = open(namespace, owners, target, mark)?;
        if owners.is_some() {
            bind_device_to_loopback(&socket)?;
        }
        make_transparent(&socket, target.is_ipv6())?;
        socket.set_reuse_address(true)?;
        let attempt = match socket.bind(&SocketAddr::new(source, port).into()) {
            Ok(()) => into_tokio(socket).connect(target).await,
            Err(error) => Err(error),
        };
        match attempt {
            Err(error) if is_taken(&error) => last = error,
            done => return done,
        }
    }
    Err(last)
}

/// Best effort: without it, two connections in many thousands may stand still for a while.
fn bind_to_egress(namespace: &NetworkNamespace, socket: &Socket, target: IpAddr) {
    let device = namespace.enter(|| egress::device_towards(target, DAEMON_MARK)).and_then(|found| found);
    if let Ok(Some(device)) = device
        && let Err(error) = socket.bind_device_by_index_v4(Some(device))
    {
        tracing::debug!(%error, %target, "a socket is not bound to the device it leaves by");
    }
}

/// Of the steered socket's world: our mark, and only lo.
pub(crate) fn bind_to_loopback(socket: &Socket) -> io::Result<()> {
    socket.set_mark(STEER_MARK)?;
    bind_device_to_loopback(socket)
}

fn bind_device_to_loopback(socket: &Socket) -> io::Result<()> {
    socket.bind_device(Some(b"lo"))
}

/// May be bound to addresses that are not the namespace's.
pub(crate) fn make_transparent(socket: &Socket, is_v6: bool) -> io::Result<()> {
    socket.set_ip_transparent_v4(true)?;
    if is_v6 { socket.set_ip_transparent_v6(true) } else { Ok(()) }
}

fn open(
    namespace: &NetworkNamespace,
    owners: Option<BorrowedFd<'_>>,
    target: SocketAddr,
    mark: u32,
) -> io::Result<Socket> {
    let domain = Domain::for_address(target);
    let kind = Type::STREAM.nonblocking();
    let socket = namespace.enter(|| Socket::new(domain, kind, Some(Protocol::TCP)))??;
    socket.set_mark(mark)?;
    if let Some(owners) = owners {
        // Before connect(): the hook reads it there.
        bpf::map_update(owners, socket.as_raw_fd().unsigned_abs(), owner::DAEMON)?;
    }
    Ok(socket)
}

fn into_tokio(socket: Socket) -> TcpSocket {
    TcpSocket::from_std_stream(socket.into())
}

/// The four addresses and ports are in use: another port may do.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}
