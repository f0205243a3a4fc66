//! Mesh to mesh.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{C1, Mesh, Options, S1, WEB_VIP, at, identity, ip, uid},
    observed::{Observed, eventually},
};

/// Everything a tunnel is for: bytes both ways, the client's address at the application, both identities proven
/// and written down on both sides.
#[tokio::test]
async fn both_ends_are_proven_recorded_and_counted() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let (mut client, mut server) = mesh.pair().await;
    client.write_all(b"hello").await.unwrap();
    server.write_all(b"response").await.unwrap();
    let mut bytes = [0; 8];
    server.read_exact(&mut bytes[..5]).await.unwrap();
    assert_eq!(&bytes[..5], b"hello");
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"response");
    assert_eq!(
        server.peer_addr().unwrap().ip(),
        ip("127.0.1.10"),
        "the application sees the client's address"
    );

    for node in [&mesh.c1, &mesh.s1] {
        let live = node.ledgers.live();
        let [connection] = &live[..] else { panic!("{live:?}") };
        let proven = |party: &telemetry::LiveParty| party.identity.as_ref().unwrap().to_string();
        assert_eq!(proven(&connection.source), identity("c1"));
        assert_eq!(proven(&connection.destination), identity("s1"));
        assert_eq!((connection.path, connection.established), ("hbone", true));
        eventually("all bytes counted", || {
            let connection = &node.ledgers.live()[0];
            ((connection.bytes_to_destination, connection.bytes_to_source) == (5, 8)).then_some(())
        })
        .await;
    }

    drop((client, server));
    let identities = [
        r#"src.identity="spiffe://cluster.local/ns/default/sa/sa-c1""#,
        r#"dst.identity="spiffe://cluster.local/ns/default/sa/sa-s1""#,
    ];
    let line = observed.line(&[r#"direction="outbound""#, "bytes_sent=5 bytes_recv=8"]).await;
    assert!(identities.iter().all(|part| line.contains(part)), "{line}");
    let line = observed.line(&[r#"direction="inbound""#, "bytes_sent=8 bytes_recv=5"]).await;
    assert!(identities.iter().all(|part| line.contains(part)), "{line}");
    for reporter in [r#"reporter="source""#, r#"reporter="destination""#] {
        let labels = [reporter, r#"connection_security_policy="mutual_tls""#, r#"response_flags="-""#];
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_received_bytes_total", 5),
            ("istio_tcp_sent_bytes_total", 8),
        ] {
            assert_eq!(observed.metric(name, &labels), value, "{reporter} {name}");
        }
    }
}

/// Without it the two lines of one connection could not be joined.
#[tokio::test]
async fn both_ends_log_the_same_trace_and_time_their_steps() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let (mut client, mut server) = mesh.pair().await;
    server.write_all(b"response").await.unwrap();
    client.read_exact(&mut [0; 8]).await.unwrap();
    drop((client, server));
    let trace = |line: String| line.split("trace_id=").nth(1).map(|rest| rest[..32].to_owned());
    let outbound = trace(observed.line(&[r#"direction="outbound""#]).await);
    let inbound = trace(observed.line(&[r#"direction="inbound""#]).await);
    assert!(outbound.is_some());
    assert_eq!(outbound, inbound);
    for (name, label) in [
        ("ztunnel_handshake_duration_seconds_count", r#"role="inbound""#),
        ("ztunnel_application_connect_duration_seconds_count", ""),
        ("ztunnel_first_byte_duration_seconds_count", r#"reporter="source""#),
        ("ztunnel_first_byte_duration_seconds_count", r#"reporter="destination""#),
    ] {
        assert_eq!(observed.metric(name, &[label]), 1, "{name} {label}");
    }
}

#[tokio::test]
async fn a_service_address_leads_to_its_endpoint_and_is_recorded() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let client = mesh.connect(at(WEB_VIP, 80)).await;
    let (server, _) = listener.accept().await.unwrap();
    assert_eq!(mesh.c1.ledgers.live()[0].service.as_deref(), Some("default/web.default.svc.cluster.local"));
    drop((client, server));
    observed.line(&["dst.hbone_addr=10.0.2.10:8080", r#"dst.service="web.default.svc.cluster.local""#]).await;
}

/// The application was told "connected" by its kernel. If nobody is there it must learn so as from a closed port,
/// never as from a server that answered nothing and was done.
#[tokio::test]
async fn a_refused_application_port_resets_the_client() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let mut client = mesh.connect(at(S1, 7)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let line = observed.line(&["ERROR", r#"direction="outbound""#, "503"]).await;
    assert!(line.contains(r#"reason="refused_by_peer""#), "{line}");
    observed.line(&["ERROR", r#"direction="inbound""#, r#"reason="application_connect""#]).await;
    for reporter in [r#"reporter="source""#, r#"reporter="destination""#] {
        let labels = [reporter, r#"response_flags="CONNECT""#, r#"connection_security_policy="mutual_tls""#];
        assert_eq!(observed.metric("istio_tcp_connections_failed_total", &labels), 1, "{reporter}");
    }
}

/// If 200 came before the application had accepted, the source's ledger would say established for a connection
/// that never was, and the client's bytes would be sent into the void.
#[tokio::test]
async fn the_answer_waits_for_the_application() {
    let _observed = Observed::start();
    let mesh = Mesh::new().await;
    mesh.net.swallow(at(S1, 8080));
    let _client = mesh.connect(at(S1, 8080)).await;
    eventually("the request at s1", || (mesh.s1.ledgers.count_for(&uid("s1")) == 1).then_some(())).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!mesh.c1.ledgers.live()[0].established);
    assert!(!mesh.s1.ledgers.live()[0].established);
}

/// A client that gives up must not leave its request at work for as long as an application takes to answer.
#[tokio::test]
async fn a_client_that_gives_up_ends_the_attempt_at_the_far_side() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.connect_deadline = std::time::Duration::from_secs(60);
    let mut mesh = Mesh::with(options).await;
    mesh.net.swallow(at(S1, 8080));
    let _client = mesh.connect(at(S1, 8080)).await;
    eventually("the request at s1", || (mesh.s1.ledgers.count_for(&uid("s1")) == 1).then_some(())).await;
    mesh.c1.stop.cut.cancel();
    mesh.c1.serving.take().unwrap().await.unwrap();
    eventually("its end", || (mesh.s1.ledgers.count_for(&uid("s1")) == 0).then_some(())).await;
    observed.line(&[r#"direction="inbound""#, "the tunnel ended before the connection stood"]).await;
}

/// Without a deadline an application would hang for as long as TCP tries.
#[tokio::test]
async fn an_unreachable_gateway_resets_the_client_within_the_deadline() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.connect_deadline = std::time::Duration::from_millis(50);
    let mesh = Mesh::with(options).await;
    mesh.net.swallow(at(S1, 15008));
    let mut client = mesh.connect(at(S1, 8080)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&[r#"reason="connect_deadline""#, r#"direction="outbound""#]).await;
}

/// The tunnel must not lend its identity to addresses of somebody else.
#[tokio::test]
async fn what_would_loop_is_reset() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    for destination in ["127.0.0.1", "0.0.0.0", C1] {
        let mut client = mesh.connect(at(destination, 8080)).await;
        let error = client.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{destination}");
    }
    observed.line(&[r#"reason="loop""#]).await;
}
