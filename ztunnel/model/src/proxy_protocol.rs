//! The PROXY protocol, version 2: what an application that ends tunnels itself is told of a connection before its first byte.
//!
//! Reading is the application's; the tests have a reader of their own to hold the writer against.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::SpiffeId;

#[cfg(test)]
mod read;
#[cfg(test)]
mod tests;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of somebody.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Istio's waypoints look for the peer's identity here; the range from 0xE0 and up is others'.
const IDENTITY: u8 = 0xD0;

/// Who connects, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub client: SocketAddr,
    /// As the client named it.
    pub destination: SocketAddr,
    /// That mutual TLS has proven.
    pub peer: Option<SpiffeId>,
}

impl Header {
    pub fn write(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let family = addresses(&mut body, self.client, self.destination);
        if let Some(peer) = &self.peer {
            let peer = peer.to_string();
            body.push(IDENTITY);
            body.extend_from_slice(&length(peer.len()));
            body.extend_from_slice(peer.as_bytes());
        }
        let mut header = SIGNATURE.to_vec();
        header.extend_from_slice(&[PROXY, family]);
        header.extend_from_slice(&length(body.len()));
        header.extend_from_slice(&body);
        header
    }
}

/// A SPIFFE ID, the one part of no fixed length, has at most 2048 bytes.
#[expect(clippy::cast_possible_truncation, reason = "far below what it has room for")]
fn length(length: usize) -> [u8; 2] {
    (length as u16).to_be_bytes()
}

/// In one family: of two, both in IPv6 clothes.
fn addresses(body: &mut Vec<u8>, client: SocketAddr, destination: SocketAddr) -> u8 {
    let ips = (client.ip().to_canonical(), destination.ip().to_canonical());
    let family = if let (IpAddr::V4(client), IpAddr::V4(destination)) = ips {
        body.extend_from_slice(&client.octets());
        body.extend_from_slice(&destination.octets());
        TCP4
    } else {
        body.extend_from_slice(&in_ipv6(ips.0).octets());
        body.extend_from_slice(&in_ipv6(ips.1).octets());
        TCP6
    };
    body.extend_from_slice(&client.port().to_be_bytes());
    body.extend_from_slice(&destination.port().to_be_bytes());
    family
}

fn in_ipv6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
