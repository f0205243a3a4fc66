//! Who may connect, at the start and later.

use std::io::ErrorKind;

use model::{
    MtlsMode, Settings,
    policy::{Action, Match, Policy, Scope, Unenforced},
    settings::{Egress, NamespaceSettings, WorkloadSettings},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Mesh, OUTSIDE, S1, at, uid},
    observed::Observed,
};

fn deny(rule: Match) -> Policy {
    Policy {
        name: "deny".into(),
        namespace: "default".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![vec![vec![rule]]],
        dry_run: false,
        extensions: Unenforced::default(),
        not_understood: Vec::new(),
    }
}

fn settings(namespace: NamespaceSettings) -> Settings {
    Settings { namespaces: [("default".to_owned(), namespace)].into(), ..Settings::default() }
}

fn deny_port(port: u16) -> Policy {
    deny(Match { destination_ports: vec![port], ..Match::default() })
}

#[tokio::test]
async fn a_denied_client_is_reset_and_both_sides_say_why() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    mesh.enforce(deny_port(8080));
    let _listener = mesh.net.listen(at(S1, 8080)).await;
    let mut client = mesh.connect(at(S1, 8080)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"direction="outbound""#, "401"]).await;
    let line = observed.line(&["ERROR", r#"direction="inbound""#, r#"reason="denied_by_policy""#]).await;
    assert!(line.contains(r#"policy="default/deny""#), "{line}");
    let at_source = [r#"reporter="source""#, r#"response_flags="CONNECT""#];
    let at_destination = [r#"reporter="destination""#, r#"response_flags="DENY""#];
    for labels in [at_source, at_destination] {
        assert_eq!(observed.metric("istio_tcp_connections_failed_total", &labels), 1, "{labels:?}");
    }
}

#[tokio::test]
async fn denied_plaintext_is_reset() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    mesh.enforce(deny_port(8080));
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let mut client = mesh.connect_in_clear(at(S1, 8080)).await;
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"path="plaintext""#, r#"policy="default/deny""#]).await;
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "the application heard of somebody who was denied");
}

/// Revoking access must not wait for the attacker to hang up. What the new policy allows goes on.
#[tokio::test]
async fn a_change_of_policy_ends_what_it_forbids_and_nothing_else() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let (mut denied, mut denied_server) = mesh.pair().await;
    let _listener = mesh.net.listen(at(S1, 8080)).await;
    let mut clear = mesh.connect_in_clear(at(S1, 8080)).await;
    let other = mesh.net.listen(at(S1, 9090)).await;
    let mut allowed = mesh.connect(at(S1, 9090)).await;
    let (mut allowed_server, _) = other.accept().await.unwrap();
    clear.write_all(b"x").await.unwrap();
    crate::observed::eventually("all stand", || {
        mesh.s1.ledgers.live().iter().all(|c| c.established).then_some(())
    })
    .await;

    mesh.enforce(deny_port(8080));
    for stream in [&mut denied, &mut denied_server, &mut clear] {
        let error = stream.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    for path in [r#"path="hbone""#, r#"path="plaintext""#] {
        observed.line(&["ERROR", path, r#"reason="denied_by_policy""#, r#"policy="default/deny""#]).await;
    }
    let denied_labels = [r#"reporter="destination""#, r#"response_flags="DENY""#];
    assert_eq!(observed.metric("istio_tcp_connections_closed_total", &denied_labels), 2);
    assert_eq!(observed.metric("istio_tcp_connections_failed_total", &denied_labels), 0, "they had stood");

    allowed.write_all(b"still").await.unwrap();
    let mut bytes = [0; 5];
    allowed_server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"still");
}

/// A pod that gets a label which a policy selects is under that policy from then on, and so is what stands.
#[tokio::test]
async fn a_policy_that_comes_to_select_the_workload_ends_what_it_forbids() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    mesh.enforce(Policy { scope: Scope::WorkloadSelector, ..deny_port(8080) });
    let (mut client, _server) = mesh.pair().await;
    mesh.change(|snapshot| {
        let mut server = (**snapshot.workload(&uid("s1")).unwrap()).clone();
        server.authorization_policies = vec!["default/deny".parse().unwrap()];
        snapshot.insert_workload(server);
    });
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"direction="inbound""#, r#"policy="default/deny""#]).await;
}

/// The switch must also end what stands, or turning it on would protect nobody from who is already in.
#[tokio::test]
async fn default_deny_refuses_and_ends_what_no_policy_allows() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let (mut client, _server) = mesh.pair().await;
    mesh.set(settings(NamespaceSettings { default_deny: Some(true), ..NamespaceSettings::default() }));
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut again = mesh.connect(at(S1, 8080)).await;
    assert_eq!(again.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"direction="inbound""#, r#"reason="default_deny""#]).await;
}

/// Would break if whoever is connected to the outside when the mesh is closed stayed so. Who is not shut in stays.
#[tokio::test]
async fn closing_the_mesh_ends_what_is_open_to_the_outside() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let listener = mesh.net.listen(at(OUTSIDE, 80)).await;
    let mut outside = mesh.connect(at(OUTSIDE, 80)).await;
    let (mut far, _) = listener.accept().await.unwrap();
    let (mut inside, mut server) = mesh.pair().await;
    let elsewhere = NamespaceSettings { egress: Some(Egress::RegistryOnly), ..NamespaceSettings::default() };
    mesh.set(Settings { namespaces: [("elsewhere".to_owned(), elsewhere)].into(), ..Settings::default() });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    outside.write_all(b"x").await.unwrap();
    far.read_exact(&mut [0; 1]).await.unwrap();

    mesh.set(settings(NamespaceSettings {
        egress: Some(Egress::RegistryOnly),
        ..NamespaceSettings::default()
    }));
    for stream in [&mut outside, &mut far] {
        let mut bytes = [0; 8];
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut bytes)).await;
        let error = ended.expect("it goes on").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    observed.line(&["ERROR", r#"path="passthrough""#, r#"reason="not_in_registry""#]).await;
    inside.write_all(b"still").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
}

/// Whoever prepares a policy must see what it would do, and nobody must feel it.
#[tokio::test]
async fn a_dry_run_is_told_and_not_felt() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let (client, server) = mesh.pair().await;
    mesh.enforce(Policy { dry_run: true, ..deny_port(8080) });
    let audited = crate::observed::eventually("the open connection is judged again", || {
        let live = mesh.s1.ledgers.live().pop()?;
        live.audit.map(|audit| (audit.decision, audit.policy))
    });
    assert_eq!(audited.await, ("denied_by_policy", Some("default/deny".to_owned())));
    drop((client, server));
    let line = observed.line(&["INFO", r#"direction="inbound""#, r#"audit="denied_by_policy""#]).await;
    assert!(line.contains("audit_policy=default/deny") && line.contains(r#"reason="completed""#), "{line}");
}

/// The list to bring to zero before turning strict, and only that: where plaintext is all there is, it is no finding.
#[tokio::test]
async fn plaintext_is_listed_where_mutual_tls_is_possible() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    for port in [8080, 9090] {
        let listener = mesh.net.listen(at(S1, port)).await;
        if port == 9090 {
            let own = WorkloadSettings { mtls: None, ports: [(9090, MtlsMode::Disable)].into() };
            let workloads = [("s1".to_owned(), own)].into();
            mesh.set(settings(NamespaceSettings { workloads, ..Default::default() }));
        }
        let _client = mesh.connect_in_clear(at(S1, port)).await;
        let _server = listener.accept().await.unwrap();
        crate::observed::eventually("it stands", || {
            mesh.s1.ledgers.live().iter().any(|c| c.established).then_some(())
        })
        .await;
    }
    let list = mesh.s1.ledgers.plaintext().list(std::time::SystemTime::now());
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!((&*list[0].source, list[0].port, list[0].connections), (OUTSIDE, 8080, 1));
    observed.line(&["WARN", "plaintext accepted", r#"from="10.0.9.9""#, "port=8080"]).await;
    let labels = [r#"source_workload="unknown""#, r#"destination_workload="s1""#];
    assert_eq!(observed.metric("ztunnel_plaintext_connections_total", &labels), 1);
}

/// Both ends read the same setting: the client sends no tunnel, and the server would refuse one.
#[tokio::test]
async fn a_port_without_mutual_tls_is_reached_in_plaintext() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let own = WorkloadSettings { mtls: None, ports: [(8080, MtlsMode::Disable)].into() };
    mesh.set(settings(NamespaceSettings {
        workloads: [("s1".to_owned(), own)].into(),
        ..Default::default()
    }));
    let (client, server) = mesh.pair().await;
    drop((client, server));
    let line = observed.line(&[r#"direction="outbound""#, r#"path="passthrough""#]).await;
    assert!(line.contains(r#"dst.workload="s1""#) && !line.contains("identity"), "{line}");
}

#[tokio::test]
async fn where_only_the_registry_is_open_an_unknown_destination_is_refused_by_its_own_reason() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let _listener = mesh.net.listen(at(OUTSIDE, 80)).await;
    mesh.set(settings(NamespaceSettings { egress: Some(Egress::RegistryOnly), ..Default::default() }));
    let mut client = mesh.connect(at(OUTSIDE, 80)).await;
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    observed.line(&["ERROR", r#"direction="outbound""#, r#"reason="not_in_registry""#]).await;
}
