//! The header that tells an application of a connection: what is written is what a reader of the PROXY protocol, version 2,
//! finds, and whatever the client sends begins right behind it.

use std::net::{IpAddr, SocketAddr};

use model::proxy_protocol::Header;

/// Three lines: client, destination, and the SPIFFE ID that was proven, if one was.
pub fn proxy_header(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let mut lines = text.lines();
    let mut address = || lines.next()?.parse::<SocketAddr>().ok();
    let (Some(client), Some(destination)) = (address(), address()) else { return };
    let peer = lines.next().and_then(|line| line.parse().ok());
    let header = Header { client, destination, peer };
    let mut sent = header.write();
    sent.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let (ends, peer, rest) = read(&sent);
    assert_eq!(ends, [client, destination].map(plain));
    assert_eq!(peer, header.peer.map(|peer| peer.to_string()).as_deref());
    assert_eq!(rest, b"GET / HTTP/1.1\r\n");
}

/// Zones and flow labels of IPv6 are not told, and IPv4 is not dressed up.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// By the protocol's text alone, sections 2.2 and 2.2.7: both ends, the value of type 0xD0, and what comes after.
fn read(sent: &[u8]) -> ([SocketAddr; 2], Option<&str>, &[u8]) {
    let rest = sent.strip_prefix(b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A").expect("a signature");
    let [0x21, family, high, low, rest @ ..] = rest else { panic!("not version 2 of PROXY") };
    let (body, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
    let width = match family {
        0x11 => 4,
        0x21 => 16,
        other => panic!("family {other:#04x}"),
    };
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")).to_canonical(),
    };
    let port = |bytes: &[u8]| u16::from_be_bytes(bytes.try_into().expect("two bytes"));
    let (addresses, values) = body.split_at(2 * width + 4);
    let ports = &addresses[2 * width..];
    let ends = [
        SocketAddr::new(ip(&addresses[..width]), port(&ports[..2])),
        SocketAddr::new(ip(&addresses[width..2 * width]), port(&ports[2..])),
    ];
    let peer = match values {
        [] => None,
        [0xD0, high, low, value @ ..] => {
            assert_eq!(value.len(), usize::from(u16::from_be_bytes([*high, *low])), "one value");
            Some(std::str::from_utf8(value).expect("text"))
        }
        other => panic!("{other:?} after the addresses"),
    };
    (ends, peer, rest)
}
