//! The device by which a destination is reached, and why the daemon's own sockets are bound to it.
//!
//! An application's captured socket is bound to lo; one of ours that carries it on to the same destination would be bound to
//! nothing. Where the kernel chooses a port for both at the same moment, it does not see that the one has what it gives
//! to the other: it compares sockets of different devices as different. Unbound, ours then takes packets of lo that are for
//! the application's, and both stand still. Bound to the device it leaves by, it takes only what comes back there.

use std::{io, net::IpAddr, num::NonZeroU32};

use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_ROUTE};
use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};

/// In the namespace of the thread that asks, for packets of this mark. `None` if the destination is in the namespace
/// itself, or unreachable: then connect(2) says so. The kernel answers before the question's system call returns.
pub(crate) fn device_towards(target: IpAddr, mark: u32) -> io::Result<Option<NonZeroU32>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    socket.send(&question(target, mark), 0)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer.as_mut_slice(), 0)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(buffer.get(..length).unwrap_or_default());
    Ok(match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => device(&route),
        _ => None,
    })
}

fn question(target: IpAddr, mark: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    let (family, length, address) = match target {
        IpAddr::V4(ip) => (AddressFamily::Inet, 32, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(ip)),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = length;
    route.attributes = vec![RouteAttribute::Destination(address), RouteAttribute::Mark(mark)];
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn device(route: &RouteMessage) -> Option<NonZeroU32> {
    let is_elsewhere = matches!(route.header.kind, RouteType::Unicast);
    route.attributes.iter().filter(|_| is_elsewhere).find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => NonZeroU32::new(*index),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If a socket to the pod's own application were bound to a device, it would look for it outside.
    #[test]
    fn what_is_here_is_reached_by_no_device() {
        for own in ["127.0.0.1", "::1"] {
            assert_eq!(device_towards(own.parse().unwrap(), 0).unwrap(), None, "{own}");
        }
    }
}
