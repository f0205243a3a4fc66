//! From pod to pod of one node, past the network: decided as if it came through the tunnel, and told as what it is.

use std::{io::ErrorKind, sync::atomic::Ordering::Relaxed, time::Duration};

use model::{
    MtlsMode,
    policy::{Action, Match, Policy, Scope, StringMatch, Unenforced},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    mesh::{C1, Mesh, OUTSIDE, Options, S1, WEB_VIP, at, identity, ip, uid},
    observed::{Observed, eventually},
};

async fn is_reset(stream: &mut TcpStream) {
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 8])).await.expect("it ends");
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Allows or denies the identity of `name`.
fn policy(action: Action, name: &str) -> Policy {
    let principal = identity(name).trim_start_matches("spiffe://").to_owned();
    let rule = Match { principals: vec![StringMatch::Exact(principal)], ..Match::default() };
    Policy {
        name: "p".into(),
        namespace: "default".into(),
        scope: Scope::Namespace,
        action,
        rules: vec![vec![vec![rule]]],
        dry_run: false,
        extensions: Unenforced::default(),
        not_understood: Vec::new(),
    }
}

/// Which way the connection that stands takes.
async fn path(mesh: &Mesh) -> &'static str {
    let standing = || mesh.c1.ledgers.live().into_iter().find(|connection| connection.established);
    eventually("it stands", standing).await.path
}

/// A dashboard that took it for encrypted would lie, and one that saw one reporter would miss half of it.
#[tokio::test]
async fn both_pods_report_it_and_neither_claims_mutual_tls() {
    let observed = Observed::start();
    let mesh = Mesh::with(Options::direct()).await;
    let (mut client, mut server) = mesh.pair().await;
    assert_eq!(server.peer_addr().unwrap().ip(), ip("127.0.1.10"), "the client's address");
    client.write_all(b"hello").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
    server.write_all(b"response").await.unwrap();
    client.read_exact(&mut [0; 8]).await.unwrap();
    for pod in ["c1", "s1"] {
        assert_eq!(mesh.c1.ledgers.count_for(&uid(pod)), 1);
    }
    for connection in mesh.c1.ledgers.live() {
        assert_eq!((connection.path, connection.mutual_tls, connection.established), ("direct", false, true));
        assert_eq!(connection.source.identity.unwrap().to_string(), identity("c1"));
        assert_eq!(connection.destination.identity.unwrap().to_string(), identity("s1"));
    }
    drop((client, server));
    let mut traces = std::collections::BTreeSet::new();
    for (direction, bytes) in
        [("outbound", "bytes_sent=5 bytes_recv=8"), ("inbound", "bytes_sent=8 bytes_recv=5")]
    {
        let line = observed.line(&[&format!(r#"direction="{direction}""#), r#"path="direct""#, bytes]).await;
        assert!(line.contains(&identity("c1")) && line.contains(&identity("s1")), "{line}");
        assert!(line.contains(r#"dst.addr=10.0.2.10:8080"#) && !line.contains("hbone_addr"), "{line}");
        let (_, trace) = line.split_once("trace_id=").expect(&line);
        traces.insert(trace.split(' ').next().map(str::to_owned));
    }
    assert_eq!(traces.len(), 1, "the two lines are of one connection: {traces:?}");
    for reporter in [r#"reporter="source""#, r#"reporter="destination""#] {
        let principals = [("source", "c1"), ("destination", "s1")]
            .map(|(end, name)| format!(r#"{end}_principal="{}""#, identity(name)));
        let labels = [reporter, r#"connection_security_policy="none""#, &principals[0], &principals[1]];
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_received_bytes_total", 5),
            ("istio_tcp_sent_bytes_total", 8),
        ] {
            assert_eq!(observed.metric(name, &labels), value, "{reporter} {name}");
        }
    }
    assert_eq!(observed.metric("istio_tcp", &["mutual_tls"]), 0);
}

/// Policies speak of identities: a shortcut that lost them would let everybody in, or nobody.
#[tokio::test]
async fn the_destinations_policies_know_the_sources_identity() {
    let observed = Observed::start();
    let mesh = Mesh::with(Options::direct()).await;
    mesh.enforce(policy(Action::Allow, "c1"));
    let (_client, _server) = mesh.pair().await;
    assert_eq!(path(&mesh).await, "direct");
    mesh.enforce(policy(Action::Deny, "c1"));
    let listener = mesh.net.listen(at(S1, 8081)).await;
    is_reset(&mut mesh.connect(at(S1, 8081)).await).await;
    for direction in [r#"direction="outbound""#, r#"direction="inbound""#] {
        let parts = ["ERROR", direction, r#"path="direct""#, r#"reason="denied_by_policy""#, ":8081"];
        let line = observed.line(&parts).await;
        assert!(line.contains(r#"policy="default/p""#), "{line}");
    }
    let heard = timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(heard.is_err(), "the application heard of somebody who was denied");
}

#[tokio::test]
async fn strict_mutual_tls_is_satisfied_and_a_policy_that_comes_later_ends_it() {
    let observed = Observed::start();
    let mesh = Mesh::with(Options { mtls: Some(MtlsMode::Strict), ..Options::direct() }).await;
    let (mut client, mut server) = mesh.pair().await;
    assert_eq!(path(&mesh).await, "direct");
    mesh.enforce(policy(Action::Deny, "s1"));
    client.write_all(b"not of me").await.unwrap();
    server.read_exact(&mut [0; 9]).await.unwrap();
    mesh.enforce(policy(Action::Deny, "c1"));
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    observed.line(&[r#"direction="inbound""#, r#"reason="denied_by_policy""#]).await;
    observed.line(&[r#"direction="outbound""#, r#"reason="denied_by_policy""#]).await;
    mesh.s1.mtls.send_replace(Some(MtlsMode::Disable));
    mesh.change(|snapshot| snapshot.remove_policy(&policy(Action::Deny, "c1").key()));
    let mut refused = mesh.connect(at(S1, 8080)).await;
    is_reset(&mut refused).await;
    observed.line(&[r#"direction="inbound""#, r#"reason="mtls_disabled""#]).await;
}

/// Sockets of a pod keep its namespace alive, and what is cut must not look finished.
#[tokio::test]
async fn a_cut_of_either_pod_ends_it_and_is_waited_for() {
    let _observed = Observed::start();
    for of_source in [true, false] {
        let mut mesh = Mesh::with(Options::direct()).await;
        let (mut client, mut server) = mesh.pair().await;
        let cut = if of_source { &mut mesh.c1 } else { &mut mesh.s1 };
        cut.stop.cut.cancel();
        timeout(Duration::from_secs(1), cut.serving.take().unwrap()).await.expect("serve returns").unwrap();
        is_reset(&mut client).await;
        is_reset(&mut server).await;
        eventually("both accounts are closed", || mesh.c1.ledgers.live().is_empty().then_some(())).await;
    }
}

/// A pod that leaves, or drains, or has gone must be reached as if it were anywhere.
#[tokio::test]
async fn whoever_is_not_enrolled_here_now_is_reached_through_the_tunnel() {
    let _observed = Observed::start();
    let mesh = Mesh::with(Options::direct()).await;
    for sockets in [&mesh.c1.sockets, &mesh.s1.sockets] {
        sockets.enrolled.store(false, Relaxed);
        let pair = mesh.pair().await;
        assert_eq!(path(&mesh).await, "hbone");
        sockets.enrolled.store(true, Relaxed);
        drop(pair);
        eventually("it has ended", || mesh.c1.ledgers.live().is_empty().then_some(())).await;
    }
    let pair = mesh.pair().await;
    assert_eq!(path(&mesh).await, "direct", "both are enrolled again");
    drop(pair);
    eventually("it has ended", || mesh.c1.ledgers.live().is_empty().then_some(())).await;
    mesh.s1.stop.drain.cancel();
    let _pair = mesh.pair().await;
    assert_eq!(path(&mesh).await, "hbone");
}

/// Who turned it on for some must not have it where it is off.
#[tokio::test]
async fn without_the_setting_it_is_tunnelled_on_one_node_too() {
    let _observed = Observed::start();
    let mesh = Mesh::with(Options { one_node: true, ..Options::default() }).await;
    let _pair = mesh.pair().await;
    assert_eq!(path(&mesh).await, "hbone");
}

/// The application may bind any address: what the destination is told must be the pod's own, as a tunnel's would be.
#[tokio::test]
async fn an_address_that_the_application_has_bound_is_not_believed() {
    let _observed = Observed::start();
    let mesh = Mesh::with(Options::direct()).await;
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let _forged = mesh.connect_as(OUTSIDE, at(S1, 8080)).await;
    let (server, _) = listener.accept().await.unwrap();
    assert_eq!(server.peer_addr().unwrap().ip(), ip("127.0.1.10"));
    assert_eq!(path(&mesh).await, "direct");
    let inbound = mesh.c1.ledgers.live().into_iter().find(|connection| connection.local == uid("s1"));
    assert_eq!(inbound.unwrap().client.0.ip(), ip(C1));
}

/// An application that is not there is an endpoint that failed, not a denial.
#[tokio::test]
async fn a_service_whose_endpoint_is_beside_goes_direct_and_fails_as_endpoints_do() {
    let observed = Observed::start();
    let mesh = Mesh::with(Options::direct()).await;
    is_reset(&mut mesh.connect(at(WEB_VIP, 80)).await).await;
    for direction in [r#"direction="outbound""#, r#"direction="inbound""#] {
        let line = observed.line(&["ERROR", direction, r#"reason="application_connect""#]).await;
        assert!(line.contains(r#"path="direct""#), "{line}");
    }
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let _client = mesh.connect(at(WEB_VIP, 80)).await;
    let _server = listener.accept().await.unwrap();
    assert_eq!(path(&mesh).await, "direct");
}
