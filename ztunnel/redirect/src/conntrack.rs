//! Whom a redirected datagram was meant for. A UDP socket is never told; the kernel's table of what it redirected is
//! asked, by ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_NETFILTER};
use parking_lot::Mutex;
use rtnetlink::packet_core::NLM_F_REQUEST;

use crate::NetworkNamespace;

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const FOUND: u16 = SUBSYSTEM << 8;
const ERROR: u16 = 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// `NLA_F_NESTED`, and all flags of an attribute's type.
const NESTED: u16 = 0x8000;
const FLAGS: u16 = 0xc000;
const HEADER: usize = 16;
/// The header of netfilter's own after netlink's: family, version, resource.
const SUBHEADER: usize = 4;
/// Answers to earlier questions, of which the asker was interrupted.
const MAX_STALE: usize = 16;

/// One namespace's table of connections.
#[derive(Debug)]
pub struct Conntrack {
    socket: Mutex<Socket>,
    sequence: AtomicU32,
}

impl NetworkNamespace {
    pub fn conntrack(&self) -> io::Result<Conntrack> {
        let socket = self.enter(|| Socket::new(NETLINK_NETFILTER))??;
        socket.set_non_blocking(true)?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(Conntrack { socket: Mutex::new(socket), sequence: AtomicU32::new(0) })
    }
}

impl Conntrack {
    /// Whom `client` had sent a datagram that was redirected to `arrived_at`. `NotFound` if none was. The kernel answers
    /// before the question's system call returns: nothing waits.
    pub fn original_destination(&self, client: SocketAddr, arrived_at: SocketAddr) -> io::Result<SocketAddr> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let socket = self.socket.lock();
        socket.send(&question(client, arrived_at, sequence), 0)?;
        for _ in 0..MAX_STALE {
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer.as_mut_slice(), 0)?;
            let message = buffer.get(..length).unwrap_or_default();
            if word(message, 8) == Some(sequence) {
                return original(message);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// The connection whose answers go from `arrived_at` to `client`.
fn question(client: SocketAddr, arrived_at: SocketAddr, sequence: u32) -> Vec<u8> {
    let ([source, destination], family) = if client.is_ipv4() {
        ([V4_SOURCE, V4_DESTINATION], libc::AF_INET)
    } else {
        ([V6_SOURCE, V6_DESTINATION], libc::AF_INET6)
    };
    let ips = [attribute(source, &octets(arrived_at.ip())), attribute(destination, &octets(client.ip()))];
    let protocol = [
        attribute(PROTOCOL_NUMBER, &[UDP]),
        attribute(SOURCE_PORT, &arrived_at.port().to_be_bytes()),
        attribute(DESTINATION_PORT, &client.port().to_be_bytes()),
    ];
    let tuple =
        [attribute(TUPLE_IP | NESTED, &ips.concat()), attribute(TUPLE_PROTOCOL | NESTED, &protocol.concat())];
    let tuple = attribute(TUPLE_REPLY | NESTED, &tuple.concat());
    let length = u32::try_from(HEADER + SUBHEADER + tuple.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(GET.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([u8::try_from(family).unwrap_or_default(), 0, 0, 0]);
    message.extend(tuple);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn original(message: &[u8]) -> io::Result<SocketAddr> {
    let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(FOUND) => {}
        Some(ERROR) => {
            let code = word(message, HEADER).unwrap_or_default().cast_signed();
            return Err(io::Error::from_raw_os_error(code.saturating_neg()));
        }
        _ => return Err(unreadable()),
    }
    let attributes = message.get(HEADER + SUBHEADER..).unwrap_or_default();
    destination(attributes).ok_or_else(unreadable)
}

fn destination(attributes: &[u8]) -> Option<SocketAddr> {
    let tuple = find(attributes, TUPLE_ORIGINAL)?;
    let ips = find(tuple, TUPLE_IP)?;
    let v4 = || find(ips, V4_DESTINATION)?.try_into().ok().map(|octets: [u8; 4]| IpAddr::from(octets));
    let v6 = || find(ips, V6_DESTINATION)?.try_into().ok().map(|octets: [u8; 16]| IpAddr::from(octets));
    let port = find(find(tuple, TUPLE_PROTOCOL)?, DESTINATION_PORT)?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some(SocketAddr::new(v4().or_else(v6)?, port))
}

/// The value of the first attribute of this kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?).into();
        let found = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if found & !FLAGS == kind {
            return Some(value);
        }
        attributes = attributes.get(usize::next_multiple_of(length, 4)..)?;
    }
}

fn word(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about a connection is not understood")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Would break if the kernel did not understand the question, or we took somebody else's connection for ours.
    #[test]
    fn what_was_not_redirected_is_not_found() {
        let here = NetworkNamespace::open(Path::new("/proc/self/ns/net")).unwrap();
        let conntrack = here.conntrack().unwrap();
        for [client, arrived_at] in [["127.0.0.1:9", "127.0.0.1:15053"], ["[::1]:9", "[::1]:15053"]] {
            let [client, arrived_at] = [client, arrived_at].map(|text| text.parse().unwrap());
            let found = conntrack.original_destination(client, arrived_at);
            assert_eq!(found.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    /// An answer that is cut short anywhere is no destination, and no panic.
    #[test]
    fn an_answer_is_read_to_its_end_or_not_at_all() {
        let tuple = |kind, ip: &[u8], port: u16| {
            let ips = [attribute(V4_SOURCE, &[10, 0, 0, 1]), attribute(V4_DESTINATION, ip)].concat();
            let ports = [attribute(SOURCE_PORT, &[0, 9]), attribute(DESTINATION_PORT, &port.to_be_bytes())];
            let parts = [attribute(TUPLE_IP, &ips), attribute(TUPLE_PROTOCOL, &ports.concat())].concat();
            attribute(kind | NESTED, &parts)
        };
        let attributes =
            [tuple(TUPLE_REPLY, &[1, 1, 1, 1], 1), tuple(TUPLE_ORIGINAL, &[10, 0, 0, 2], 53)].concat();
        assert_eq!(destination(&attributes), Some("10.0.0.2:53".parse().unwrap()));
        for length in 0..attributes.len() {
            let cut = destination(&attributes[..length]);
            assert!(cut.is_none() || length > attributes.len() - 4, "{length} bytes");
        }
    }
}
