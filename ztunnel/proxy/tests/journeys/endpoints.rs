//! Several endpoints behind one address, of which some fail.

use std::{io::ErrorKind, time::Duration};

use model::{
    Workload,
    policy::{Action, Match, Policy, Scope, Unenforced},
    workload::Protocol,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    mesh::{Mesh, OUTSIDE, Options, S1, WEB_VIP, at, identity, ip, uid},
    observed::{Observed, eventually},
};

const OTHER: &str = "10.0.3.10";
const RETRIES: &str = "ztunnel_connect_retries_total";
const SET_ASIDE: &str = "ztunnel_endpoints_set_aside_total";

/// A workload behind `web`, besides `s1`.
fn web_endpoint(name: &str, address: Option<&str>, protocol: Protocol) -> Workload {
    let ips = address.into_iter().map(ip).collect();
    let mut workload = Workload::new(uid(name), name, identity(name).parse().unwrap(), ips);
    workload.protocol = protocol;
    workload.services = [("default/web.default.svc.cluster.local".parse().unwrap(), [].into())].into();
    workload
}

fn insert(mesh: &Mesh, workload: Workload) {
    let mut snapshot = (*mesh.snapshot.load()).clone();
    snapshot.insert_workload(workload);
    mesh.snapshot.publish(snapshot);
}

fn remove(mesh: &Mesh, name: &str) {
    let mut snapshot = (*mesh.snapshot.load()).clone();
    snapshot.remove_workload(&uid(name));
    mesh.snapshot.publish(snapshot);
}

/// Whoever accepts says who it is.
async fn serve(listener: TcpListener, name: u8) {
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.write_u8(name).await.unwrap();
    }
}

async fn who_answers(mesh: &Mesh) -> Result<u8, ErrorKind> {
    let mut client: TcpStream = mesh.connect(at(WEB_VIP, 80)).await;
    client.read_u8().await.map_err(|error| error.kind())
}

/// An application must not hear of an endpoint that is gone while another is there; and after a few failures it is not
/// even asked.
#[tokio::test]
async fn an_endpoint_that_refuses_is_replaced_before_the_application_hears_of_it() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    insert(&mesh, web_endpoint("gone", Some(OTHER), Protocol::Hbone));
    tokio::spawn(serve(mesh.net.listen(at(S1, 8080)).await, 1));
    for _ in 0..40 {
        assert_eq!(who_answers(&mesh).await, Ok(1));
    }
    assert_eq!(observed.metric(RETRIES, &[r#"reason="connect""#]), 3, "three failures, then set aside");
    assert_eq!(observed.metric(SET_ASIDE, &[]), 1);
    observed.line(&["WARN", r#"reason="endpoint_set_aside""#, "gone"]).await;
    let failed = observed.lines().into_iter().find(|line| line.contains("ERROR"));
    assert_eq!(failed, None, "no connection failed");
    let labels = [r#"reporter="source""#, r#"destination_workload="unknown""#];
    assert_eq!(observed.metric("istio_tcp_connections_opened_total", &labels), 0);
}

/// Would break if the endpoints were blamed and set aside for a certificate that this node waits for, or if the wait were cut
/// to the share of one attempt.
#[tokio::test]
async fn a_wait_for_our_own_certificate_is_no_endpoints_fault() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.connect_deadline = Duration::from_millis(900);
    options.settings.outliers.failures = 1;
    let mesh = Mesh::with(options).await;
    insert(&mesh, web_endpoint("gone", Some(OTHER), Protocol::Hbone));
    mesh.authority.withhold(&identity("c1").parse().unwrap());
    assert_eq!(who_answers(&mesh).await, Err(ErrorKind::ConnectionReset));
    observed.line(&["ERROR", r#"reason="svid_deadline""#]).await;
    assert_eq!((observed.metric(RETRIES, &[]), observed.metric(SET_ASIDE, &[])), (0, 0));

    let mut snapshot = (*mesh.snapshot.load()).clone();
    snapshot.remove_workload(&uid("gone"));
    mesh.snapshot.publish(snapshot);
    insert(&mesh, web_endpoint("twin", Some(S1), Protocol::Hbone));
    tokio::spawn(serve(mesh.net.listen(at(S1, 8080)).await, 1));
    let late = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        mesh.authority.release();
    };
    let (answer, ()) = tokio::join!(who_answers(&mesh), late);
    assert_eq!(answer, Ok(1), "a certificate that comes within the deadline is in time");
}

/// Who hangs must not use up the time that another endpoint would need.
#[tokio::test]
async fn an_endpoint_that_hangs_is_given_up_in_time_for_another() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.connect_deadline = Duration::from_millis(600);
    options.settings.outliers.failures = u32::MAX;
    let mesh = Mesh::with(options).await;
    insert(&mesh, web_endpoint("silent", Some(OTHER), Protocol::Hbone));
    mesh.net.swallow(at(OTHER, 15008));
    tokio::spawn(serve(mesh.net.listen(at(S1, 8080)).await, 1));
    for _ in 0..200 {
        assert_eq!(who_answers(&mesh).await, Ok(1));
        if observed.metric(RETRIES, &[r#"reason="connect_deadline""#]) > 0 {
            return;
        }
    }
    panic!("the silent endpoint was never chosen");
}

/// Would break if a service that is forgotten between two attempts were taken for an outsider, who gets plaintext.
#[tokio::test]
async fn a_service_that_vanishes_between_attempts_is_not_reached_in_clear() {
    let _observed = Observed::start();
    let mut options = Options::default();
    options.settings.connect_deadline = Duration::from_millis(900);
    let mesh = Mesh::with(options).await;
    insert(&mesh, web_endpoint("silent", Some(OTHER), Protocol::Hbone));
    mesh.net.swallow(at(OTHER, 15008));
    mesh.net.swallow(at(S1, 15008));
    tokio::spawn(serve(mesh.net.listen(at(WEB_VIP, 80)).await, 7));
    let mut client = mesh.connect(at(WEB_VIP, 80)).await;
    // Connecting over loopback is quick, and each attempt takes a share of the deadline.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let key = "default/web.default.svc.cluster.local".parse().unwrap();
    mesh.change(|snapshot| snapshot.remove_service(&key));
    assert_eq!(client.read_u8().await.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

/// A 503 says that nothing was delivered. What the second endpoint's connection is recorded as must be true of it, not
/// of the first.
#[tokio::test]
async fn a_refusal_by_the_application_leads_to_another_endpoint() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    insert(&mesh, web_endpoint("plain", Some(OTHER), Protocol::Tcp));
    tokio::spawn(serve(mesh.net.listen(at(OTHER, 8080)).await, 2));
    let mut retried = 0;
    while retried == 0 {
        assert_eq!(who_answers(&mesh).await, Ok(2));
        retried = observed.metric(RETRIES, &[r#"reason="refused_by_peer""#]);
    }
    eventually("all ended", || mesh.c1.ledgers.live().is_empty().then_some(())).await;
    for line in observed.lines().iter().filter(|line| line.contains(r#"direction="outbound""#)) {
        assert!(line.contains(r#"path="passthrough""#) && !line.contains("identity"), "{line}");
    }
}

/// A denial is an answer: asking around until somebody lets one in would make of the weakest policy the only one.
#[tokio::test]
async fn a_denial_is_not_taken_elsewhere() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    mesh.enforce(Policy {
        name: "deny".into(),
        namespace: "default".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![vec![vec![Match { destination_ports: vec![8080], ..Match::default() }]]],
        dry_run: false,
        extensions: Unenforced::default(),
        not_understood: Vec::new(),
    });
    insert(&mesh, web_endpoint("plain", Some(OTHER), Protocol::Tcp));
    tokio::spawn(serve(mesh.net.listen(at(OTHER, 8080)).await, 2));
    let mut denied = false;
    while !denied {
        denied = who_answers(&mesh).await == Err(ErrorKind::ConnectionReset);
    }
    observed.line(&[r#"direction="outbound""#, "401"]).await;
    assert_eq!(observed.metric(RETRIES, &[]), 0);
}

/// A service that is down altogether must not be hammered by each connection, nor hold the application for long.
#[tokio::test]
async fn only_so_many_endpoints_are_tried_for_one_connection() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    remove(&mesh, "s1");
    for number in 1..=9 {
        let address = format!("10.0.3.{number}");
        insert(&mesh, web_endpoint(&format!("gone-{number}"), Some(&address), Protocol::Tcp));
    }
    assert_eq!(who_answers(&mesh).await, Err(ErrorKind::ConnectionReset));
    observed.line(&["ERROR", r#"reason="connect""#, r#"path="passthrough""#]).await;
    assert_eq!(observed.metric(RETRIES, &[]), 2, "three attempts");
    let labels = [r#"reporter="source""#];
    assert_eq!(observed.metric("istio_tcp_connections_failed_total", &labels), 1, "one connection");
}

/// With nobody else to turn to, the reason is the endpoint's own, and it goes on being tried.
#[tokio::test]
async fn the_only_endpoint_is_never_set_aside_for_good() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    for _ in 0..5 {
        assert_eq!(who_answers(&mesh).await, Err(ErrorKind::ConnectionReset));
    }
    observed.line(&[r#"reason="refused_by_peer""#]).await;
    assert_eq!((observed.metric(RETRIES, &[]), observed.metric(SET_ASIDE, &[])), (0, 1));
    tokio::spawn(serve(mesh.net.listen(at(S1, 8080)).await, 1));
    assert_eq!(who_answers(&mesh).await, Ok(1));
}

/// A name is looked up by the daemon, and one address after the other is tried.
#[tokio::test]
async fn an_endpoint_with_a_host_name_is_reached_at_one_of_its_addresses() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    remove(&mesh, "s1");
    let mut named = web_endpoint("named", None, Protocol::Tcp);
    named.hostname = "outside.example".into();
    insert(&mesh, named.clone());
    tokio::spawn(serve(mesh.net.listen(at(OUTSIDE, 8080)).await, 3));
    for _ in 0..8 {
        assert_eq!(who_answers(&mesh).await, Ok(3));
    }
    observed.line(&["dst.addr=10.0.9.9:8080", r#"dst.workload="named""#, r#"path="passthrough""#]).await;

    for (host, reason) in [("own.example", "unusable_host_name"), ("none.example", "host_name_not_found")] {
        named.hostname = host.into();
        insert(&mesh, named.clone());
        assert_eq!(who_answers(&mesh).await, Err(ErrorKind::ConnectionReset));
        observed.line(&[&format!("reason=\"{reason}\"")]).await;
    }
}
