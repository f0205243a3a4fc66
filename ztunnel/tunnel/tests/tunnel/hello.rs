//! The first words of a tunnel, against those that Istio's proxy was recorded to say.

use std::net::Ipv4Addr;

use rustls::{CipherSuite, NamedGroup, server::Acceptor};
use tokio::{io::AsyncReadExt, net::TcpListener};
use ztunnel_tunnel::{Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, id},
    mesh::Client,
};

const RECORDED: &str = include_str!("../fixtures/tls-clienthello.txt");

#[derive(Debug, PartialEq, Eq)]
struct Hello {
    suites: Vec<CipherSuite>,
    alpn: Vec<Vec<u8>>,
    name: Option<String>,
    groups: Vec<NamedGroup>,
}

fn hello(record: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut &record[..]).unwrap();
    let accepted = acceptor.accept().ok().flatten().expect("a whole ClientHello");
    let hello = accepted.client_hello();
    let mut groups = hello.named_groups().unwrap().to_vec();
    groups.sort_by_key(|group| u16::from(*group));
    Hello {
        suites: hello.cipher_suites().to_vec(),
        alpn: hello.alpn().unwrap().map(<[u8]>::to_vec).collect(),
        name: hello.server_name().map(ToOwned::to_owned),
        groups,
    }
}

/// Would break if we offered a suite, a protocol or a name that a server of Istio's need not know, or no group of its own.
#[tokio::test]
async fn a_tunnel_begins_as_istio_s_does() {
    let hex = RECORDED.lines().find_map(|line| line.strip_prefix("hex ")).unwrap();
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let theirs = hello(&bytes);
    assert_eq!((theirs.suites.len(), theirs.groups.len()), (2, 4), "the fixture was read");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let certificates = Certificates::new([Authority::new("mesh").svid(&id("client"))]);
    let client = Client::new(Tunnel::new(TunnelSettings::default(), certificates));
    let gateway = listener.local_addr().unwrap();
    let dialing = tokio::spawn(async move { client.dial(gateway).await.map(drop) });
    let (mut accepted, _) = listener.accept().await.unwrap();
    let mut record = vec![0; 5];
    accepted.read_exact(&mut record).await.unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
    accepted.read_exact(&mut body).await.unwrap();
    dialing.abort();
    assert_eq!(hello(&[record, body].concat()), theirs);
}
