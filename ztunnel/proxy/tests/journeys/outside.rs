//! From the mesh to the world and from the world to the mesh, in plaintext.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{C1, Mesh, OUTSIDE, Options, S1, at, identity, ip, uid},
    observed::Observed,
};
use model::{Settings, Workload, authorize::MtlsMode, settings::Egress, workload::Protocol};

#[tokio::test]
async fn an_unknown_destination_is_passed_through_as_the_pod() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let listener = mesh.net.listen(at(OUTSIDE, 80)).await;
    let mut client = mesh.connect(at(OUTSIDE, 80)).await;
    let (mut server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), ip("127.0.1.10"), "it leaves with the pod's own address");
    client.write_all(b"hello").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
    drop((client, server));
    let line = observed.line(&[r#"path="passthrough""#, "bytes_sent=5 bytes_recv=0"]).await;
    assert!(!line.contains("identity"), "nobody proved anything: {line}");
    let labels = [r#"connection_security_policy="unknown""#, r#"source_principal="unknown""#];
    assert_eq!(observed.metric("istio_tcp_connections_closed_total", &labels), 1);
}

#[tokio::test]
async fn an_unknown_destination_that_refuses_resets_the_client() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let mut client = mesh.connect(at(OUTSIDE, 7)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"reason="connect""#, r#"path="passthrough""#]).await;
}

/// A service port that does not exist must fail at once, and is no connection that anybody attempted.
#[tokio::test]
async fn a_service_port_that_does_not_exist_resets_the_client() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let mut client = mesh.connect(at("10.96.0.10", 81)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["WARN", "connection failed", r#"reason="no_such_service_port""#]).await;
}

/// A pod that calls its own service reaches its own application; captured again it would loop or be refused.
#[tokio::test]
async fn a_pod_reaches_itself_through_its_own_service() {
    let _observed = Observed::start();
    let mesh = Mesh::new().await;
    let listener = mesh.net.listen(at(C1, 8080)).await;
    let mut client = mesh.connect(at("10.96.0.11", 80)).await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"me").await.unwrap();
    let mut bytes = [0; 2];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"me");
}

#[tokio::test]
async fn plaintext_comes_in_with_the_clients_address() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let client = mesh.connect_in_clear(at(S1, 8080)).await;
    let (server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), ip("127.0.9.9"), "the application sees who calls");
    drop((client, server));
    let line = observed.line(&[r#"path="plaintext""#, r#"direction="inbound""#]).await;
    assert!(!line.contains("identity"), "{line}");
    let labels = [r#"reporter="destination""#, r#"connection_security_policy="unknown""#];
    assert_eq!(observed.metric("istio_tcp_connections_closed_total", &labels), 1);
}

#[tokio::test]
async fn plaintext_to_a_closed_port_is_reset() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let mut client = mesh.connect_in_clear(at(S1, 7)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"reason="application_connect""#, r#"path="plaintext""#]).await;
}

/// Strict means that nothing unproven reaches the application.
#[tokio::test]
async fn strict_refuses_plaintext_and_takes_the_tunnel() {
    let observed = Observed::start();
    let mesh = Mesh::with(Options { mtls: Some(MtlsMode::Strict), ..Options::default() }).await;
    let (client, server) = mesh.pair().await;
    let mut stranger = mesh.connect_in_clear(at(S1, 8080)).await;
    let error = stranger.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"reason="plaintext_in_strict""#]).await;
    let labels = [r#"response_flags="DENY""#, r#"connection_security_policy="unknown""#];
    assert_eq!(observed.metric("istio_tcp_connections_failed_total", &labels), 1);
    drop((client, server));
}

/// Otherwise whoever was in before a pod became strict would stay in for as long as they like.
#[tokio::test]
async fn turning_strict_ends_plaintext_and_leaves_the_tunnel() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let mut stranger = mesh.connect_in_clear(at(S1, 8080)).await;
    let (mut to_stranger, _) = listener.accept().await.unwrap();
    to_stranger.write_all(b"in").await.unwrap();
    stranger.read_exact(&mut [0; 2]).await.unwrap();
    let mut client = mesh.connect(at(S1, 8080)).await;
    let (mut server, _) = listener.accept().await.unwrap();
    mesh.s1.mtls.send_replace(Some(MtlsMode::Strict));
    let error = stranger.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"reason="plaintext_in_strict""#]).await;
    client.write_all(b"still").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
}

/// If steering took our own connection to the application for a client's, it would come back without end.
#[tokio::test]
async fn our_own_connection_that_comes_back_is_refused() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    // The application's port leads to the proxy's own plaintext listener.
    mesh.s1.sockets.loop_back(at(S1, 8080));
    let mut client = mesh.connect_in_clear(at(S1, 8080)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&[r#"reason="loop""#]).await;
}

/// Otherwise what was taken out of the registry stays reachable for whoever was connected.
#[tokio::test]
async fn who_leaves_the_registry_is_left_where_only_the_registry_is_open() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let mut partner =
        Workload::new(uid("partner"), "partner", identity("partner").parse().unwrap(), vec![ip(OUTSIDE)]);
    partner.protocol = Protocol::Tcp;
    mesh.change(|snapshot| snapshot.insert_workload(partner));
    mesh.set(Settings { egress: Egress::RegistryOnly, ..Settings::default() });
    let listener = mesh.net.listen(at(OUTSIDE, 80)).await;
    let mut client = mesh.connect(at(OUTSIDE, 80)).await;
    let (mut server, _) = listener.accept().await.unwrap();
    mesh.change(|snapshot| snapshot.set_trust_domains(Default::default()));
    server.write_all(b"in").await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
    mesh.change(|snapshot| snapshot.remove_workload(&uid("partner")));
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"reason="not_in_registry""#]).await;
}
