//! Peers that have a good certificate and no good intentions.

use std::time::Duration;

use rustls::version;
use ztunnel_tunnel::{Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, for_ten_minutes, id},
    clock::Clock,
    mesh::{Event, Server},
    raw::{self, END_STREAM, HEADERS, RST_STREAM, Raw},
};

/// `:method: CONNECT` and `:authority: a:1`, in HPACK literals.
const CONNECT: &[u8] = b"\x02\x07CONNECT\x01\x03a:1";

async fn connection(settings: TunnelSettings) -> (Server, Raw) {
    connection_of(settings, |_| {}).await
}

/// Of a client whose certificate is changed like that.
async fn connection_of(
    settings: TunnelSettings,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> (Server, Raw) {
    let authority = Authority::new("mesh");
    let svids = Certificates::new([authority.svid(&id("server"))]);
    let server = Server::new(Tunnel::new(settings, svids)).await;
    let leaf = authority.leaf(&[&id("client").to_string()], change);
    let raw = Raw::connect(server.address, raw::config(&version::TLS13, Some(leaf), &[b"h2"])).await;
    (server, raw)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn connect(stream: u32) -> Vec<u8> {
    frame(HEADERS, 4, stream, CONNECT)
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// CVE-2023-44487: streams opened and reset in one breath.
#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let (mut server, mut raw) = connection(TunnelSettings::default()).await;
    let flood: Vec<u8> = (0..500).flat_map(|n| [connect(2 * n + 1), cancel(2 * n + 1)]).flatten().collect();
    raw.send(&flood).await;
    assert_eq!(server.ended().await.0, "http2_excess");
}

/// Resets make room for HTTP/2, but not for the work that goes on for what was reset.
#[tokio::test]
async fn reset_requests_count_until_they_are_dropped() {
    let settings = TunnelSettings { inbound_streams: 2, ..TunnelSettings::default() };
    let (mut server, mut raw) = connection(settings).await;
    let mut held = Vec::new();
    for stream in [1, 3] {
        raw.send(&connect(stream)).await;
        held.push(server.request().await);
        raw.send(&cancel(stream)).await;
    }
    raw.send(&connect(5)).await;
    let refused = raw.frame_of(5).await;
    assert_eq!((refused.kind, refused.code()), (RST_STREAM, 7), "REFUSED_STREAM");
    held.clear();
    raw.send(&connect(7)).await;
    drop(server.request().await);
}

#[tokio::test]
async fn headers_beyond_16_kib_are_refused() {
    let (_server, mut raw) = connection(TunnelSettings::default()).await;
    let big = [CONNECT, b"\x00\x05x-big\x7f\xe1\x7e", &[b'a'; 16_352]].concat();
    // In two frames: one may carry 16 KiB at most.
    let (first, rest) = big.split_at(16_000);
    raw.send(&frame(HEADERS, 0, 1, first)).await;
    raw.send(&frame(9, 4, 1, rest)).await;
    let answer = raw.frame_of(1).await;
    assert!(answer.kind == RST_STREAM || answer.flags & END_STREAM != 0, "{answer:?}");
}

/// A drain is complete only when the peer has answered a PING of its own. One that answers those of the keepalive and
/// not that one would open streams for ever.
#[tokio::test(start_paused = true)]
async fn an_expired_peer_that_ignores_goaway_opens_no_stream() {
    let clock = Clock::stopped();
    let patient = TunnelSettings { ping_timeout: Duration::from_secs(3600), ..TunnelSettings::default() };
    let (mut server, mut raw) = connection_of(patient, for_ten_minutes).await;
    raw.send(&connect(1)).await;
    let _before = server.request().await;
    clock.pass(Duration::from_secs(620)).await;
    raw.send(&connect(3)).await;
    let refused = tokio::select! {
        refused = raw.frame_of(3) => refused,
        _ = server.request() => panic!("it opened a stream"),
    };
    assert_eq!((refused.kind, refused.code()), (RST_STREAM, 7), "REFUSED_STREAM");
}

/// Streams beyond what was advertised are refused, and the others are not harmed.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let settings = TunnelSettings { inbound_streams: 1, ..TunnelSettings::default() };
    let (mut server, mut raw) = connection(settings).await;
    raw.send(&connect(1)).await;
    let first = server.request().await.accept("").unwrap();
    assert_eq!(raw.frame_of(1).await.kind, HEADERS);
    raw.send(&connect(3)).await;
    let refused = raw.frame_of(3).await;
    assert_eq!((refused.kind, refused.code()), (RST_STREAM, 7), "REFUSED_STREAM");
    drop(first);
    let reset = raw.frame_of(1).await;
    assert_eq!((reset.kind, reset.code()), (RST_STREAM, 8), "CANCEL");
}

#[tokio::test]
async fn what_is_no_connect_is_counted() {
    let (mut server, mut raw) = connection(TunnelSettings::default()).await;
    // :method GET, :scheme https, :path /, :authority a:1
    raw.send(&frame(HEADERS, 5, 1, b"\x82\x87\x84\x01\x03a:1")).await;
    let answer = raw.frame_of(1).await;
    assert_eq!((answer.kind, &answer.payload[..]), (HEADERS, &[0x8c][..]), "400");
    drop(raw);
    loop {
        if let Event::Ended { rejected, .. } = server.event().await {
            break assert_eq!(rejected, 1);
        }
    }
}
