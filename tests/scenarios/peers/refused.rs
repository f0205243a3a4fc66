//! Who is not let in: refused in the handshake, counted and logged with the reason, and told by the right alert.
//! Alert numbers are those Istio's proxy was recorded to send, where it refuses the same.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    AlertDescription, ClientConfig,
    version::{TLS12, TLS13},
};
use testkit::{
    Daemon, Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Authority, all_failures,
    authority::{expired, for_servers, not_valid_yet},
    client::{H2, Peer, config, config_of, knock},
    failures, good, inside, refusals,
};
use crate::support::FAMILIES;

const MARKER: &[u8] = b"through the tunnel";

struct Case {
    what: &'static str,
    config: Arc<ClientConfig>,
    reason: &'static str,
    alert: AlertDescription,
}

fn case(
    what: &'static str,
    config: Arc<ClientConfig>,
    reason: &'static str,
    alert: AlertDescription,
) -> Case {
    Case { what, config, reason, alert }
}

fn cases(mesh: &Mesh) -> Vec<Case> {
    let own = Authority::of(mesh);
    let me = &*Mesh::identity("client");
    let named = |what, uris: &[&str]| {
        let config = config(own.leaf(uris, |_| ()));
        case(what, config, "not_one_spiffe_id", AlertDescription::CertificateUnknown)
    };
    let elsewhere = own.leaf(&["spiffe://other.example/ns/default/sa/client"], |_| ());
    let forged = Authority::upstart(mesh, me).leaf(&[&Mesh::identity("server")], |_| ());
    vec![
        case(
            "another trust domain",
            config(elsewhere),
            "other_trust_domain",
            AlertDescription::CertificateUnknown,
        ),
        case(
            "expired",
            config(own.leaf(&[me], expired)),
            "expired_certificate",
            AlertDescription::CertificateExpired,
        ),
        case(
            "not valid yet",
            config(own.leaf(&[me], not_valid_yet)),
            "certificate_not_yet_valid",
            AlertDescription::CertificateExpired,
        ),
        case(
            "another root",
            config(Authority::stranger().leaf(&[me], |_| ())),
            "unknown_ca",
            AlertDescription::UnknownCA,
        ),
        case(
            "another root of the same name",
            config(Authority::namesake(mesh).leaf(&[me], |_| ())),
            "bad_certificate",
            AlertDescription::DecryptError,
        ),
        case(
            "signed by a mere workload",
            config(forged),
            "bad_certificate",
            AlertDescription::CertificateUnknown,
        ),
        case(
            "good for servers only",
            config(own.leaf(&[me], for_servers)),
            "bad_certificate",
            AlertDescription::UnsupportedCertificate,
        ),
        case(
            "no certificate",
            config_of(&TLS13, None, H2),
            "no_client_certificate",
            AlertDescription::CertificateRequired,
        ),
        named("two identities", &[me, &Mesh::identity("server")]),
        named("no identity", &[]),
        named("a malformed identity", &["spiffe://cluster.local/ns/default/client"]),
        named("an identity with a query", &[&format!("{me}?x=y")]),
        named("a name of another scheme", &["https://cluster.local/ns/default/sa/client"]),
        case(
            "TLS 1.2",
            config_of(&TLS12, Some(good(mesh, "client")), H2),
            "tls_version",
            AlertDescription::ProtocolVersion,
        ),
        case(
            "HTTP/1.1 by ALPN",
            config_of(&TLS13, Some(good(mesh, "client")), &[b"http/1.1"]),
            "alpn",
            AlertDescription::NoApplicationProtocol,
        ),
    ]
}

/// Catches: a certificate that is taken for more than it is, a refusal that nobody is told of.
#[test]
fn whoever_proves_no_identity_of_the_mesh_is_refused() {
    let mesh = Mesh::start(&["server"]).unwrap();
    let (daemon, outside) = (mesh.daemon(1), &mesh.topology().outside);
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        for Case { what, config, reason, alert } in cases(&mesh) {
            let (counted, all) = (failures(daemon, reason), all_failures(daemon));
            let (own, got) = inside(outside, move || knock(gateway, config));
            assert_eq!(got, Some(alert), "{what}");
            assert_counted_and_logged(daemon, own, reason, counted, what);
            assert_eq!(all_failures(daemon), all + 1.0, "{what}: counted twice");
        }
        assert_eq!(application.accepted(), family, "only who is let in is heard of");
        // The same with a good certificate, or all of the above proves nothing.
        let target = mesh.address("server", family, 8080).to_string();
        let config = config(good(&mesh, "client"));
        let echoed = inside(outside, move || async move {
            let peer = Peer::connect(gateway, config).await;
            peer.connect_to(&target).await.expect("200").exchange(MARKER).await.unwrap()
        });
        assert_eq!(echoed, MARKER);
    }
    assert_eq!(application.accepted(), FAMILIES.len());
}

fn assert_counted_and_logged(daemon: &Daemon, peer: SocketAddr, reason: &str, before: f64, what: &str) {
    eventually(&format!("{what}: counted as {reason}"), || {
        (failures(daemon, reason) == before + 1.0).then_some(())
    });
    let peer = peer.to_string();
    let lines = eventually(&format!("{what}: logged as {reason}"), || {
        let mut lines = refusals(daemon, reason, 0);
        lines.retain(|line| line["peer"] == peer.as_str());
        (!lines.is_empty()).then_some(lines)
    });
    assert!(lines.len() == 1 && lines[0]["level"] == "WARN", "{what}: {lines:?}");
}

/// Catches: a daemon that answers in plaintext, or takes it for anything but an error.
#[test]
fn plaintext_on_the_tunnels_port_is_refused() {
    let mesh = Mesh::start(&["server"]).unwrap();
    let (daemon, outside) = (mesh.daemon(1), &mesh.topology().outside);
    for (number, gateway) in (1..).zip(FAMILIES.map(|family| mesh.address("server", family, 15008))) {
        let answer = inside(outside, move || shout(gateway));
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
        eventually("counted", || (failures(daemon, "not_tls") == f64::from(number)).then_some(()));
    }
    assert_eq!(refusals(daemon, "not_tls", FAMILIES.len()).len(), FAMILIES.len());
}

async fn shout(gateway: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // It may end in a reset.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// Catches: identity taken from an address instead of a certificate, and an application that borrows the mesh's
/// own port to speak for itself.
#[test]
fn a_pod_speaks_only_for_itself() {
    let plan = MeshPlan::new(&["client stranger", "server"]).pod("stranger", |pod| pod.enrolled = false);
    let mesh = plan.start().unwrap();
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8080);
        let theirs = config(good(&mesh, "client"));
        assert_eq!(ask_for(&mesh.pod("stranger").place, gateway, theirs, target), MARKER);
        let line = crate::support::last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "the certificate says who it is");
        assert!(line["src.workload"].is_null(), "the address alone says nothing: {line}");

        let dial = Dial::to(gateway);
        let error = mesh.pod("client").run(move || dial.exchange(b"x").unwrap_err().kind());
        assert_eq!(error, std::io::ErrorKind::ConnectionReset);
        let refused = eventually("the attempt is logged", || {
            let mut lines = mesh.daemon(1).access_log().unwrap();
            lines.retain(|line| line["reason"] == "reserved_port");
            (lines.len() == family + 1).then_some(lines)
        });
        assert_eq!(refused[family]["dst.addr"], gateway.to_string().as_str());
    }
    assert_eq!(application.accepted(), FAMILIES.len());
}

fn ask_for(from: &Place, gateway: SocketAddr, config: Arc<ClientConfig>, target: SocketAddr) -> Vec<u8> {
    inside(from, move || async move {
        let peer = Peer::connect(gateway, config).await;
        let mut stream = peer.connect_to(&target.to_string()).await.expect("200");
        stream.exchange(MARKER).await.unwrap()
    })
}
