//! Certificates from a CA that rotates its roots and fails, while connections are made all the time; peers of another trust
//! domain.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan,
    ca::{Behaviour, Ca},
    client::Dial,
    eventually,
    rate::{Outcomes, Rate},
    server::{Behaviour as Answering, Server},
};

use crate::support::FAMILIES;

const CA: &str = "10.0.0.200:15012";
pub(crate) const PER_SECOND: u32 = 200;
/// Renewed every few seconds.
pub(crate) const LIFETIME: Duration = Duration::from_secs(10);
/// A CA that failed for long is asked every half a minute.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// One tunnel leads to each of their addresses.
const SERVERS: [&str; 4] = ["server", "a", "b", "c"];
/// In seconds; for CI a third of a minute does.
const LONG: &str = "ZTUNNEL_CERTIFICATES_SECONDS";

/// A file with the CA's TLS root, for the daemons' configuration, which is written before there is a CA.
struct TlsRoot(PathBuf);

impl TlsRoot {
    /// Scenarios run side by side.
    fn of(scenario: &str) -> Self {
        Self(std::env::temp_dir().join(format!("ztunnel-ca-{}-{scenario}.pem", std::process::id())))
    }
}

impl Drop for TlsRoot {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn plan(root: &TlsRoot) -> MeshPlan {
    MeshPlan::new(&["client", "server a b c"])
        .setting("certificates", ca_setting(&root.0))
        .setting("connectDeadline", "30s")
}

/// Certificates from the CA whose TLS root is in this file.
pub(crate) fn ca_setting(root: &Path) -> Value {
    let authority = json!({ "address": CA, "rootCertificates": root });
    json!({ "source": "istio", "authority": authority })
}

/// How long connections are made.
pub(crate) fn lasting() -> Duration {
    let said = std::env::var(LONG).ok().and_then(|text| text.parse().ok());
    said.map_or(Duration::from_secs(20), Duration::from_secs)
}

/// Two nodes whose certificates come from a CA outside that has this many roots.
fn mesh(root: &TlsRoot, roots: usize) -> (Mesh, Ca) {
    let mut mesh = plan(root).build().unwrap();
    let ca = Ca::start(&mesh.topology().outside, CA.parse::<SocketAddr>().unwrap(), roots).unwrap();
    fs::write(&root.0, ca.tls_root_pem()).unwrap();
    ca.change(|mood| mood.lifetime = LIFETIME);
    (1..=2).for_each(|node| mesh.start_daemon(node).unwrap());
    (mesh, ca)
}

fn states(mesh: &Mesh) -> Vec<Value> {
    let all = mesh.daemons().map(|daemon| daemon.admin("/certificates").unwrap());
    all.flat_map(|list| list.as_array().unwrap().clone()).map(|one| one["lifecycle"].clone()).collect()
}

/// Waits until every identity has a certificate that was asked for after now.
#[track_caller]
pub(crate) fn until_renewed(mesh: &Mesh, ca: &Ca) {
    let now = Instant::now();
    while now.elapsed() < PATIENCE {
        let asked = ca.asked();
        let renewed =
            |name: &str| asked.iter().any(|one| one.at > now && one.identity == Mesh::identity(name));
        let all = ["client", "server"].into_iter().all(renewed);
        if all && states(mesh).iter().all(|state| *state == "valid") {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("certificates are not renewed within {PATIENCE:?}");
}

/// One rotation without a moment in which two generations of peers do not believe each other: announce, sign, withdraw.
fn rotate(mesh: &Mesh, ca: &Ca, from: usize, to: usize) {
    ca.change(|mood| mood.announced = vec![from, to]);
    until_renewed(mesh, ca);
    ca.change(|mood| mood.signing = to);
    until_renewed(mesh, ca);
    ca.change(|mood| mood.announced = vec![to]);
    until_renewed(mesh, ca);
}

/// Longer than half of a certificate's life, and over before it ends.
fn outage(mesh: &Mesh, ca: &Ca, behaviour: &Behaviour) {
    until_renewed(mesh, ca);
    ca.change(|mood| mood.behaviour = behaviour.clone());
    eventually("certificates are stale", || states(mesh).iter().any(|state| *state == "stale").then_some(()));
    std::thread::sleep(LIFETIME / 10);
    ca.change(|mood| mood.behaviour = Behaviour::Good);
    until_renewed(mesh, ca);
}

/// Catches: a handshake between two generations of roots, a certificate that is renewed too late, a CA whose failure is
/// felt before anything has expired.
#[test]
fn rotation_of_roots_and_outages_of_the_ca_fail_no_connection() {
    let root = TlsRoot::of("rotation");
    let (mesh, ca) = mesh(&root, 3);
    let _echoes = SERVERS.map(|name| Server::start(mesh.pod(name), 8080, Answering::Echo).unwrap());
    let lasting = lasting();
    until_renewed(&mesh, &ca);
    let started = Instant::now();
    let pairs: Vec<_> = SERVERS.into_iter().flat_map(|name| FAMILIES.map(|family| (name, family))).collect();
    let each = PER_SECOND / u32::try_from(pairs.len()).unwrap();
    let rates: Vec<_> = pairs
        .iter()
        .map(|(name, family)| Rate::start(&mesh.pod("client").place, mesh.address(name, *family, 8080), each))
        .collect();
    rotate(&mesh, &ca, 0, 1);
    outage(&mesh, &ca, &Behaviour::Refuse(testkit::ca::UNAVAILABLE));
    while started.elapsed() < lasting {
        outage(&mesh, &ca, &Behaviour::Silent);
        rotate(&mesh, &ca, 1, 2);
        rotate(&mesh, &ca, 2, 1);
    }
    let took = started.elapsed();
    let outcomes: Vec<_> = rates.into_iter().map(|rate| rate.stop().unwrap()).collect();
    let renewals = ca.asked().len();
    let (total, failed): (u64, u64) =
        (outcomes.iter().map(Outcomes::total).sum(), outcomes.iter().map(Outcomes::failed).sum());
    let handshakes =
        mesh.daemon(2).metric("ztunnel_handshake_duration_seconds_count", &[("role", "inbound")]).unwrap();
    println!(
        "{total} connections in {took:?}, {failed} failed, {handshakes} handshakes, {renewals} requests to the CA"
    );
    assert_eq!(failed, 0, "{outcomes:?}");
    let least = u64::from(PER_SECOND) * took.as_secs() * 9 / 10;
    assert!(total >= least, "{outcomes:?} in {took:?}");
    // A tunnel ends with the certificates it was made by, and another takes its place.
    let least = took.as_secs() / LIFETIME.as_secs() * pairs.len() as u64;
    assert!(handshakes >= least as f64, "{handshakes} handshakes, expected {least}");
    // Not each of them need have asked while the CA was out.
    let failures =
        |daemon: &testkit::Daemon| daemon.metric("ztunnel_certificate_fetch_failures_total", &[]).unwrap();
    assert!(mesh.daemons().map(failures).sum::<f64>() >= 1.0);
    for daemon in mesh.daemons() {
        let metric = |name: &str, labels: &[(&str, &str)]| daemon.metric(name, labels).unwrap();
        assert!(metric("ztunnel_ca_configuration_changes_total", &[("change", "root")]) >= 2.0);
        assert!(metric("ztunnel_certificate_left_seconds", &[]) > 0.0);
        let audited = daemon.log_lines().unwrap();
        assert!(audited.iter().any(|line| line["target"] == "audit" && line["change"] == "root"));
        assert!(!daemon.log_text().contains("PRIVATE KEY"));
        assert!(!daemon.admin("/config_dump").unwrap().to_string().contains("PRIVATE KEY"));
    }
}

/// Catches: a certificate that is used beyond its end, and a CA that is not asked again once all is over.
#[test]
fn an_outage_beyond_expiry_refuses_and_the_ca_s_return_ends_it() {
    let root = TlsRoot::of("expiry");
    let (mesh, ca) = mesh(&root, 1);
    let _echo = Server::start(mesh.pod("server"), 8080, Answering::Echo).unwrap();
    for family in FAMILIES {
        let dial = Dial::to(mesh.address("server", family, 8080));
        assert_eq!(mesh.pod("client").run(move || dial.exchange(b"x")).unwrap(), b"x");
    }
    ca.change(|mood| mood.behaviour = Behaviour::AnotherIdentity(Mesh::identity("other")));
    std::thread::sleep(LIFETIME);
    eventually("all have expired", || states(&mesh).iter().all(|state| *state == "expired").then_some(()));
    let dial = Dial::to(mesh.address("server", 0, 8080));
    assert!(mesh.pod("client").run(move || dial.exchange(b"x")).is_err(), "an expired certificate was used");
    ca.change(|mood| mood.behaviour = Behaviour::Good);
    until_renewed(&mesh, &ca);
    let dial = Dial::to(mesh.address("server", 0, 8080));
    assert_eq!(mesh.pod("client").run(move || dial.exchange(b"x")).unwrap(), b"x");
}
