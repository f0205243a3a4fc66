//! The listeners inside a pod.
//!
//! The lookup program assigns SYNs to them whatever their address, so what an accepted socket says of itself is the
//! original destination. Their own ports are those that ambient meshes reserve; an application that has one of them
//! keeps it, and the listener takes another: only local processes could tell the difference.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use abi::HBONE_PORT;
use model::Role;
use socket2::{Domain, Protocol, Socket, Type};

use crate::socket::{DAEMON_MARK, bind_to_loopback, make_transparent};

/// Bounded by the namespace's `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// To be called inside the pod's namespace.
pub(crate) fn listen(role: Role) -> io::Result<TcpListener> {
    match bind(role, port_of(role)) {
        // The application has it, or a daemon that hands over to us.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind(role, 0),
        listener => listener,
    }
}

/// On `role`'s own port, which somebody's rules send connections to, beside a daemon that hands over to us. To be called
/// inside the pod's namespace.
pub(crate) fn listen_beside(role: Role) -> io::Result<TcpListener> {
    let (socket, address) = open()?;
    make_transparent(&socket, address.is_ipv6())?;
    socket.set_mark(DAEMON_MARK)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::new(address, port_of(role)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether a connection that `role`'s listener accepted came by way of the lookup program. A process in the pod can
/// also reach the listener's own port, which would make the daemon connect to itself.
pub(crate) fn was_steered(
    role: Role,
    own_port: impl FnOnce() -> Option<u16>,
    is_own_address: bool,
    destination: SocketAddr,
) -> bool {
    match role {
        Role::Outbound => !is_own_address && !destination.ip().is_loopback(),
        Role::InboundPlaintext => {
            !destination.ip().is_loopback() && own_port().is_some_and(|own| own != destination.port())
        }
        Role::InboundHbone => destination.port() == HBONE_PORT && !destination.ip().is_loopback(),
    }
}

fn port_of(role: Role) -> u16 {
    match role {
        Role::Outbound => 15001,
        Role::InboundPlaintext => 15006,
        Role::InboundHbone => HBONE_PORT,
    }
}

fn bind(role: Role, port: u16) -> io::Result<TcpListener> {
    let (socket, address) = open()?;
    make_transparent(&socket, address.is_ipv6())?;
    if role == Role::Outbound {
        // Steered SYNs are marked and on lo; without the same here the SYN-ACK would never match.
        bind_to_loopback(&socket)?;
    } else {
        socket.set_mark(DAEMON_MARK)?;
    }
    socket.bind(&SocketAddr::new(address, port).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket, and the address that makes it a listener of both families: only the unspecified one does.
fn open() -> io::Result<(Socket, IpAddr)> {
    let (socket, address) = match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        }
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            (Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
        Err(error) => return Err(error),
    };
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_calls_a_listener_itself_is_not_served() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(was_steered(Role::Outbound, || Some(15001), false, at("10.0.0.2:15001")));
        assert!(!was_steered(Role::Outbound, || Some(15001), true, at("10.0.0.1:15001")));
        assert!(!was_steered(Role::Outbound, || Some(15001), false, at("127.0.0.1:15001")));
        assert!(was_steered(Role::InboundPlaintext, || Some(15006), true, at("10.0.0.1:8080")));
        assert!(!was_steered(Role::InboundPlaintext, || Some(15006), true, at("10.0.0.1:15006")));
        assert!(!was_steered(Role::InboundPlaintext, || Some(40000), true, at("[::1]:8080")));
        assert!(was_steered(Role::InboundHbone, || Some(40000), true, at("10.0.0.1:15008")));
        assert!(!was_steered(Role::InboundHbone, || Some(40000), true, at("10.0.0.1:40000")));
        assert!(!was_steered(Role::InboundPlaintext, || None, true, at("10.0.0.1:8080")), "it is closed");
    }
}
