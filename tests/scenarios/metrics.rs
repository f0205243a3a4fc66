//! What operators build dashboards and alerts on: the metrics page as Prometheus reads it, and one trace for one
//! connection in the logs of both nodes.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
};

use serde_json::json;
use testkit::{
    Daemon, Mesh, MeshPlan,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, last_logged, logged};

const PORT: u16 = 8080;
const DENIED_PORT: u16 = 8081;

/// `client` and `server` on two nodes, a `stranger` outside the mesh, and a port that policy denies.
fn mesh(access_log: &serde_json::Value) -> Mesh {
    let plan = MeshPlan::new(&["client stranger", "server"]).setting("accessLog", access_log.clone());
    let plan = plan.pod("stranger", |pod| (pod.enrolled, pod.in_state) = (false, false));
    let denied = json!([[[{ "destinationPorts": [DENIED_PORT] }]]]);
    let deny = json!({ "name": "deny", "namespace": "default", "scope": "Namespace", "action": "Deny", "rules": denied });
    plan.policy(deny).start().unwrap()
}

fn say(mesh: &Mesh, pod: &str, target: SocketAddr) -> bool {
    mesh.pod(pod).run(move || Dial::to(target).exchange(b"hello")).is_ok()
}

/// Allowed, denied and in plaintext, by both families.
fn traffic(mesh: &Mesh) {
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        assert!(say(mesh, "client", mesh.address("server", family, PORT)));
        assert!(say(mesh, "stranger", mesh.address("server", family, PORT)));
        assert!(!say(mesh, "client", mesh.address("server", family, DENIED_PORT)));
    }
}

/// Prometheus' own reader of a metrics page, and what it has against it.
fn promtool(page: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = command.spawn().expect("promtool is of Debian's package prometheus");
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() || !said.is_empty(), "promtool: {}", output.status);
    said
}

fn families(page: &str) -> Vec<&str> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.map(|line| line.split(' ').next().unwrap()).collect()
}

/// Catches: a name, a help text or a line that Prometheus does not take, and metrics that no document tells of.
#[test]
fn prometheus_has_nothing_against_the_whole_page_and_all_of_it_is_specified() {
    let mesh = mesh(&json!({}));
    traffic(&mesh);
    let specification = include_str!("../../docs/SPECIFICATION.md");
    for daemon in mesh.daemons() {
        let page = daemon.metrics().unwrap();
        assert_eq!(promtool(&page), "");
        let families = families(&page);
        let is_specified =
            |name: &&&str| ["`", "{"].iter().any(|end| specification.contains(&format!("`{name}{end}")));
        let unknown: Vec<_> = families.iter().filter(|name| !is_specified(name)).collect();
        assert!(unknown.is_empty(), "not in docs/SPECIFICATION.md: {unknown:?}");
    }
    let server = mesh.daemon(2);
    let counted = |name, labels: &[(&str, &str)]| server.metric(name, labels).unwrap();
    assert!(counted("ztunnel_handshake_duration_seconds_count", &[("role", "inbound")]) >= 2.0);
    assert!(counted("ztunnel_application_connect_duration_seconds_count", &[]) >= 4.0);
    assert!(counted("ztunnel_first_byte_duration_seconds_count", &[("reporter", "destination")]) >= 4.0);
    assert_eq!(counted("ztunnel_connection_failures_total", &[("reason", "denied_by_policy")]), 2.0);
    let client = mesh.daemon(1);
    assert!(
        client.metric("ztunnel_handshake_duration_seconds_count", &[("role", "outbound")]).unwrap() >= 2.0
    );
    assert!(client.metric("ztunnel_pool_connections", &[]).unwrap() >= 1.0);
    assert_eq!(client.metric("ztunnel_file_version_info", &[("file", "state")]).unwrap(), 1.0);
}

/// Catches: a series that a pod leaves behind, which fires an alert of an expired certificate for ever.
#[test]
fn the_certificate_of_an_identity_leaves_the_page_with_it() {
    let mut mesh = mesh(&json!({}));
    let expiry = |daemon: &Daemon| {
        let identity = Mesh::identity("client");
        daemon.metric("ztunnel_certificate_expiry_seconds", &[("identity", &identity)]).unwrap()
    };
    eventually("a certificate is there", || (expiry(mesh.daemon(1)) > 1e9).then_some(()));
    let _client = mesh.take_pod(1, "client").unwrap();
    eventually("it has left", || (expiry(mesh.daemon(1)) == 0.0).then_some(()));
}

/// Catches: a trace that the far node does not take up, so that the two lines of one connection cannot be joined.
#[test]
fn a_connection_has_one_trace_in_the_logs_of_both_nodes_and_no_two_share_one() {
    let mesh = mesh(&json!({ "mode": "all", "sample": 1.0, "format": "json" }));
    traffic(&mesh);
    let mut traces = Vec::new();
    for (family, port) in FAMILIES.into_iter().flat_map(|family| [(family, PORT), (family, DENIED_PORT)]) {
        let target = mesh.address("server", family, port);
        let outbound = last_logged(mesh.daemon(1), "outbound", target);
        let trace = outbound["trace_id"].as_str().expect("it has a trace").to_owned();
        eventually("the far node logs the same trace", || {
            let lines = logged(mesh.daemon(2), "inbound", target);
            lines.iter().any(|line| line["trace_id"] == trace.as_str()).then_some(())
        });
        assert!(trace.len() == 32 && !traces.contains(&trace), "{trace}: {traces:?}");
        traces.push(trace);
    }
}

/// Catches: an errors-only log that keeps an error to itself, or is not only of errors.
#[test]
fn an_access_log_of_errors_has_the_refusals_and_nothing_else() {
    let mesh = mesh(&json!({ "mode": "errors" }));
    traffic(&mesh);
    for family in FAMILIES {
        let line = last_logged(mesh.daemon(2), "inbound", mesh.address("server", family, DENIED_PORT));
        assert_eq!((&line["reason"], &line["policy"]), (&json!("denied_by_policy"), &json!("default/deny")));
    }
    let lines: Vec<_> = mesh.daemons().flat_map(|daemon| daemon.access_log().unwrap()).collect();
    assert!(lines.iter().all(|line| !line["error"].is_null()), "{lines:?}");
}
