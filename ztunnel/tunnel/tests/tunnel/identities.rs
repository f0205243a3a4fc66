//! Who may talk to whom, and what those who may not are told. Alert numbers are those Istio's proxy was recorded to
//! send (fixtures of its server, cases 19 to 30).

use std::{io, sync::Arc};

use rustls::{AlertDescription, Error, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ztunnel_tunnel::{DialError, TerminateError, TlsFailure, Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, Leaf, expired, id},
    mesh::{Client, Event, Mesh, Server},
    raw,
};

const H2: &[&[u8]] = &[b"h2"];

/// A server of a good mesh, whose authority makes what certificates the test wants.
async fn server() -> (Authority, Server) {
    let authority = Authority::new("mesh");
    let svids = Certificates::new([authority.svid(&id("server"))]);
    let server = Server::new(Tunnel::new(TunnelSettings::default(), svids)).await;
    (authority, server)
}

/// Dials with `leaf` as its certificate. What server and client say of it.
async fn dial_with(authority: &Authority, server: &mut Server, leaf: Leaf) -> (TerminateError, DialError) {
    let svids = Certificates::new([authority.used_as(&id("client"), leaf)]);
    let client = Client::new(Tunnel::new(TunnelSettings::default(), svids));
    let address = server.address;
    let (refusal, dialed) = tokio::join!(server.refusal(), client.dial(address));
    (refusal, dialed.expect_err("the server refuses"))
}

#[track_caller]
fn assert_alert(error: &DialError, alert: AlertDescription) {
    assert!(
        matches!(error, DialError::Tls(TlsFailure::PeerAlert(got)) if *got == alert),
        "{alert:?} expected, not {error:?}"
    );
}

/// Fails if either side is wrong about the other, or if something weaker than agreed is negotiated.
#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    let (dialed, _accepted) = {
        let accepting = async {
            let Event::Opened { peer, tls } = server.event().await else { panic!("not opened") };
            assert_eq!(peer, id("client"));
            assert_eq!(tls.version, "TLSv1_3");
            assert_eq!(tls.cipher_suite, "TLS13_AES_256_GCM_SHA384");
            assert_eq!(tls.key_exchange, "X25519MLKEM768");
            server.request().await.accept("service.name=server").unwrap()
        };
        tokio::join!(client.dial(address), accepting)
    };
    let dialed = dialed.unwrap();
    assert_eq!(dialed.peer, id("server"));
    assert_eq!(dialed.baggage.as_deref(), Some("service.name=server"));
    assert!(dialed.local.ip().is_loopback());
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let (authority, mut server) = server().await;
    let leaf = authority.leaf(&["spiffe://other.example/ns/default/sa/client"], |_| {});
    let (refusal, error) = dial_with(&authority, &mut server, leaf).await;
    assert_eq!(refusal.reason(), "other_trust_domain");
    assert_alert(&error, AlertDescription::CertificateUnknown);
}

#[tokio::test]
async fn a_client_without_exactly_one_spiffe_id_is_refused() {
    let (authority, mut server) = server().await;
    let (one, two) = (&*id("client").to_string(), &*id("other").to_string());
    for uris in [
        &[][..],
        &[one, two],
        &[one, one],
        &[one, "https://cluster.local/"],
        &["https://cluster.local/"],
        &["spiffe://cluster.local/client"],
        &["spiffe://cluster.local/ns/default/sa/client/"],
    ] {
        let leaf = authority.leaf(uris, |_| {});
        let (refusal, error) = dial_with(&authority, &mut server, leaf).await;
        assert_eq!(refusal.reason(), "not_one_spiffe_id", "{uris:?}");
        assert_alert(&error, AlertDescription::CertificateUnknown);
    }
}

#[tokio::test]
async fn an_expired_client_certificate_is_refused() {
    let (authority, mut server) = server().await;
    let leaf = authority.leaf(&[&id("client").to_string()], expired);
    let (refusal, error) = dial_with(&authority, &mut server, leaf).await;
    assert_eq!(refusal.reason(), "expired_certificate");
    assert_alert(&error, AlertDescription::CertificateExpired);
}

#[tokio::test]
async fn a_client_of_an_unknown_authority_is_refused() {
    let (authority, mut server) = server().await;
    let leaf = Authority::new("stranger").leaf(&[&id("client").to_string()], |_| {});
    let (refusal, error) = dial_with(&authority, &mut server, leaf).await;
    assert_eq!(refusal.reason(), "unknown_ca");
    assert_alert(&error, AlertDescription::UnknownCA);
}

/// An authority that only calls itself like ours.
#[tokio::test]
async fn a_forged_issuer_is_refused() {
    let (authority, mut server) = server().await;
    let leaf = Authority::new("mesh").leaf(&[&id("client").to_string()], |_| {});
    let (refusal, error) = dial_with(&authority, &mut server, leaf).await;
    assert_eq!(refusal.reason(), "bad_certificate");
    assert_alert(&error, AlertDescription::DecryptError);
}

async fn refused_raw(
    server: &mut Server,
    config: Arc<rustls::ClientConfig>,
) -> (&'static str, Option<AlertDescription>) {
    let address = server.address;
    let attempt = async {
        let mut stream = raw::connect(address, config).await?;
        stream.write_all(raw::PREFACE).await?;
        stream.read_u8().await.map(drop)
    };
    let error: io::Error = attempt.await.expect_err("the server refuses");
    let alert = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    };
    (server.refusal().await.reason(), alert)
}

#[tokio::test]
async fn no_certificate_is_refused() {
    let (_, mut server) = server().await;
    let config = raw::config(&version::TLS13, None, H2);
    let expected = ("no_client_certificate", Some(AlertDescription::CertificateRequired));
    assert_eq!(refused_raw(&mut server, config).await, expected);
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let (authority, mut server) = server().await;
    let leaf = authority.leaf(&[&id("client").to_string()], |_| {});
    let config = raw::config(&version::TLS12, Some(leaf), H2);
    let expected = ("tls_version", Some(AlertDescription::ProtocolVersion));
    assert_eq!(refused_raw(&mut server, config).await, expected);
}

#[tokio::test]
async fn alpn_without_http2_is_refused() {
    let (authority, mut server) = server().await;
    let leaf = authority.leaf(&[&id("client").to_string()], |_| {});
    let config = raw::config(&version::TLS13, Some(leaf), &[b"http/1.1"]);
    let expected = ("alpn", Some(AlertDescription::NoApplicationProtocol));
    assert_eq!(refused_raw(&mut server, config).await, expected);
}

#[tokio::test]
async fn a_client_without_alpn_is_served() {
    let (authority, mut server) = server().await;
    let leaf = authority.leaf(&[&id("client").to_string()], |_| {});
    let _raw = raw::Raw::connect(server.address, raw::config(&version::TLS13, Some(leaf), &[])).await;
    assert!(matches!(server.event().await, Event::Opened { peer, .. } if peer == id("client")));
}

#[tokio::test]
async fn plaintext_is_refused() {
    let (_, mut server) = server().await;
    let mut tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n").await.unwrap();
    assert_eq!(server.refusal().await.reason(), "not_tls");
}

/// What the client thinks of a server with this certificate, and what it tells it.
async fn dial_to(authority: &Authority, leaf: Leaf) -> (DialError, TerminateError) {
    let svids = Certificates::new([authority.used_as(&id("server"), leaf)]);
    let mut server = Server::new(Tunnel::new(TunnelSettings::default(), svids)).await;
    let svids = Certificates::new([authority.svid(&id("client"))]);
    let client = Client::new(Tunnel::new(TunnelSettings::default(), svids));
    let error = client.dial(server.address).await.expect_err("the client refuses");
    (error, server.refusal().await)
}

#[track_caller]
fn assert_told(refusal: &TerminateError, alert: AlertDescription) {
    assert!(
        matches!(refusal, TerminateError::Tls(TlsFailure::PeerAlert(got)) if *got == alert),
        "{alert:?} expected, not {refusal:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_the_one_expected_is_left() {
    let authority = Authority::new("mesh");
    let (error, told) = dial_to(&authority, authority.leaf(&[&id("other").to_string()], |_| {})).await;
    let DialError::PeerIdentity { found, expected } = &error else { panic!("{error}") };
    assert_eq!((found, &expected[..]), (&id("other"), &[id("server")][..]));
    assert_eq!(error.reason(), "peer_identity");
    assert_told(&told, AlertDescription::CertificateUnknown);
}

#[tokio::test]
async fn a_server_with_a_bad_certificate_is_left() {
    let authority = Authority::new("mesh");
    let server = id("server").to_string();
    let cases = [
        (authority.leaf(&[&server, &id("other").to_string()], |_| {}), "not_one_spiffe_id"),
        (authority.leaf(&[&server], expired), "expired_certificate"),
        (Authority::new("stranger").leaf(&[&server], |_| {}), "unknown_ca"),
    ];
    for (leaf, reason) in cases {
        let (error, _) = dial_to(&authority, leaf).await;
        assert_eq!(error.reason(), reason);
    }
}

#[tokio::test]
async fn without_a_certificate_of_its_own_nobody_dials_or_serves() {
    let svids = Certificates::new([]);
    let tunnel = Tunnel::new(TunnelSettings::default(), svids);
    let mut server = Server::new(tunnel.clone()).await;
    assert_eq!(Client::new(tunnel).dial(server.address).await.unwrap_err().reason(), "no_certificate");
    let _tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.refusal().await.reason(), "no_certificate");
}
