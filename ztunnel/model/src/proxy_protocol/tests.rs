use proptest::prelude::*;

use super::{
    read::{Invalid, LOCAL, Told, read},
    *,
};

fn header(client: &str, destination: &str, peer: Option<&str>) -> Header {
    let peer = peer.map(|peer| peer.parse().unwrap());
    Header { client: client.parse().unwrap(), destination: destination.parse().unwrap(), peer }
}

/// As the protocol's own description lays it out, byte for byte: two halves that are wrong alike would agree.
#[test]
fn a_header_is_what_the_specification_says() {
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x2c".to_vec();
    expected.extend_from_slice(&[10, 0, 0, 1, 10, 96, 0, 1, 0x0f, 0xa0, 0, 80]);
    expected.extend_from_slice(b"\xd0\x00\x1dspiffe://td.example/ns/a/sa/b");
    let written = header("10.0.0.1:4000", "10.96.0.1:80", Some("spiffe://td.example/ns/a/sa/b")).write();
    assert_eq!(written, expected);

    let v6 = header("[fd00::1]:1", "[fd00::2]:2", None).write();
    assert_eq!((&v6[12..16], v6.len()), (&[0x21, 0x21, 0, 36][..], 52));
    assert_eq!(v6[16..32], "fd00::1".parse::<Ipv6Addr>().unwrap().octets());
}

#[test]
fn who_speaks_for_nobody_or_of_something_else_names_no_ends() {
    let mut local = header("10.0.0.1:1", "10.0.0.2:2", None).write();
    local[12] = LOCAL;
    assert_eq!(read(&local), Ok(Some(Told { ends: None, peer: None, length: 28 })));
    let mut udp = header("10.0.0.1:1", "10.0.0.2:2", None).write();
    udp[13] = 0x12;
    assert_eq!(read(&udp).unwrap().unwrap().ends, None);
}

#[test]
fn what_is_none_is_refused_as_soon_as_it_shows() {
    assert_eq!(read(b"\r\n\r\n\0\r\nQUIT"), Ok(None));
    assert_eq!(read(b"GET"), Err(Invalid::Signature));
    let good = header("10.0.0.1:1", "10.0.0.2:2", Some("spiffe://td/ns/a/sa/b")).write();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        read(&bytes)
    };
    assert_eq!(with(12, 0x11), Err(Invalid::Command(0x11)));
    assert_eq!(with(15, 11), Err(Invalid::Addresses));
    assert_eq!(with(15, 14), Err(Invalid::Value));
    assert_eq!(with(30, 1), Err(Invalid::Value));
    assert_eq!(with(31, 0xff), Err(Invalid::Identity));
}

fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let end = || any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port));
    (end(), end())
}

proptest! {
    /// Each half against the other, whatever follows the header and wherever it is cut.
    #[test]
    fn what_is_written_is_read(
        (client, destination) in ends(),
        peer in proptest::option::of("[a-z0-9-]{1,60}"),
        after in any::<Vec<u8>>(),
    ) {
        let peer = peer.map(|account| format!("spiffe://td/ns/a/sa/{account}").parse::<SpiffeId>().unwrap());
        let written = Header { client, destination, peer: peer.clone() }.write();
        let told = Told {
            ends: Some((client, destination)),
            peer: peer.map(|peer| peer.to_string()),
            length: written.len(),
        };
        for cut in 0..written.len() {
            prop_assert_eq!(read(&written[..cut]), Ok(None));
        }
        prop_assert_eq!(read(&[written, after].concat()), Ok(Some(told)));
    }
}
