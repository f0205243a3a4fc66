//! That an explanation says what is decided, and why.

use super::*;
use crate::{
    Settings,
    service::{IpFamilies, Service},
    workload::{Health, NetworkMode, Protocol},
};

fn workload(name: &str, ip: &str) -> Workload {
    let identity = format!("spiffe://td/ns/a/sa/{name}").parse().unwrap();
    let uid = WorkloadUid::new(&format!("K//Pod/a/{name}"));
    let mut workload = Workload::new(uid, name, identity, vec![ip.parse().unwrap()]);
    workload.protocol = Protocol::Hbone;
    workload
}

fn mesh() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.insert_workload(workload("client", "10.0.0.1"));
    for (name, ip) in [("web-1", "10.0.0.2"), ("web-2", "10.0.0.3")] {
        let mut web = workload(name, ip);
        web.workload_name = "web".into();
        web.services = [("a/web.a.svc".parse().unwrap(), [].into())].into();
        snapshot.insert_workload(web);
    }
    let mut service = Service::new("a", "web.a.svc");
    service.vips = vec!["/10.96.0.1".parse().unwrap()];
    service.ports = [(80, 8080)].into();
    snapshot.insert_service(service);
    snapshot
}

fn ask(snapshot: &Snapshot, source: &str, destination: &str) -> Vec<Explanation> {
    let pods = BTreeMap::new();
    let source = find_source(snapshot, source).unwrap();
    let destination = find_destination(snapshot, &source, destination).unwrap();
    let mesh = Mesh { snapshot, pods: &pods, neighbourhood: None };
    destination.addresses.iter().flat_map(|&address| explain(mesh, &source, address)).collect()
}

fn says(explanation: &Explanation, topic: &str, part: &str) -> bool {
    explanation.steps.iter().any(|step| step.topic == topic && step.says.contains(part))
}

fn enforce(snapshot: &mut Snapshot, policy: &str) {
    snapshot.insert_policy(serde_json::from_str(policy).unwrap());
}

const ONLY_CLIENT: &str = r#"{"name":"p","namespace":"a","scope":"Namespace","action":"Allow","rules":[[[{"serviceAccounts":[{"namespace":"a","serviceAccount":"client"}]}]]]}"#;
const NO_GET: &str = r#"{"name":"get","namespace":"a","scope":"Namespace","action":"Deny","rules":[[[{"methods":["GET"],"destinationPorts":[9]}]]]}"#;

#[test]
fn every_endpoint_of_a_service_is_explained_with_path_and_policy() {
    let mut snapshot = mesh();
    enforce(&mut snapshot, ONLY_CLIENT);
    enforce(&mut snapshot, NO_GET);
    let told = ask(&snapshot, "a/client", "web.a.svc");
    assert_eq!(told.len(), 2);
    for (explanation, name) in told.iter().zip(["web-1", "web-2"]) {
        assert!(explanation.is_allowed(), "{explanation:?}");
        assert!(says(explanation, "destination", "service a/web.a.svc"), "{explanation:?}");
        assert!(says(explanation, "destination", name) && says(explanation, "destination", ":8080"));
        assert!(says(explanation, "path", &format!("must prove spiffe://td/ns/a/sa/{name}")));
        assert!(says(explanation, "mutual TLS", "permissive by the mesh"));
        assert!(says(explanation, "policy", "a/p (ALLOW) matches"));
        assert!(says(explanation, "policy", "a/get (DENY) does not match; not enforced here: methods"));
        assert!(says(explanation, "decision", "by policy a/p"));
    }
}

#[test]
fn a_stranger_has_no_identity_and_is_refused_where_one_is_needed() {
    let mut snapshot = mesh();
    let told = ask(&snapshot, "192.0.2.1", "10.0.0.2:8080");
    assert!(told[0].is_allowed() && says(&told[0], "decision", "no policy forbids it"));
    enforce(&mut snapshot, ONLY_CLIENT);
    assert_eq!(ask(&snapshot, "192.0.2.1", "10.0.0.2:8080")[0].refused, Some("not_allowed"));
}

/// Would break if a gate before a deployment took for proven whose connections no proxy takes, or a service's address for
/// nobody's.
#[test]
fn who_is_not_served_proves_nothing_whatever_address_it_asks_for() {
    let mut snapshot = mesh();
    enforce(&mut snapshot, ONLY_CLIENT);
    let mut legacy = workload("client", "10.0.0.7");
    legacy.uid = WorkloadUid::new("K//Pod/a/legacy");
    legacy.name = "legacy".into();
    legacy.protocol = Protocol::Tcp;
    snapshot.insert_workload(legacy);
    for (name, ip) in [("host-1", "10.0.0.100"), ("host-2", "10.0.0.100")] {
        let mut host = workload(name, ip);
        host.network_mode = NetworkMode::HostNetwork;
        snapshot.insert_workload(host);
    }
    for source in ["a/legacy", "10.0.0.7", "a/host-1", "10.0.0.100", "192.0.2.1"] {
        for (destination, ends) in [("10.0.0.2:8080", 1), ("a/web-1:8080", 1), ("web.a.svc", 2)] {
            let told = ask(&snapshot, source, destination);
            assert_eq!(told.len(), ends, "{source} {destination}: {told:?}");
            for told in told {
                assert_eq!(told.refused, Some("not_allowed"), "{source} {destination}: {told:?}");
                assert_eq!(told.mutual_tls, Some(false), "{source} {destination}: {told:?}");
            }
        }
    }
    let told = ask(&snapshot, "a/legacy", "a/web-1:8080").pop().unwrap();
    assert!(says(&told, "source", "without an identity: it is not enrolled"), "{told:?}");
    assert!(ask(&snapshot, "a/legacy", "198.51.100.1:443")[0].is_allowed());

    let here = Neighbourhood { node: "n1".to_owned(), tunnel: None, pods: BTreeMap::new() };
    let mut client = workload("client", "10.0.0.1");
    client.node = "n1".into();
    snapshot.insert_workload(client);
    let mesh = Mesh { snapshot: &snapshot, pods: &BTreeMap::new(), neighbourhood: Some(&here) };
    let told = explain_named(mesh, "a/client", "a/web-1").unwrap();
    assert_eq!(told[0].refused, Some("not_allowed"), "this daemon has not enrolled it: {told:?}");
}

/// Would break if an address of two networks' pods were explained as the first one's.
#[test]
fn whose_address_is_anothers_too_must_be_named() {
    let mut snapshot = mesh();
    let mut far = workload("far", "10.0.0.1");
    far.network = Network::from(Arc::from("far"));
    snapshot.insert_workload(far);
    let found = find_source(&snapshot, "10.0.0.1");
    assert!(matches!(&found, Err(NotFound::Several(_, uids)) if uids.contains("a/far")), "{found:?}");
    assert_eq!(ask(&snapshot, "192.0.2.1", "10.0.0.1:80").len(), 2, "a stranger may mean either");
}

/// As DNS answers, or an explanation would be of a connection that nobody makes.
#[test]
fn of_a_service_without_an_address_those_are_explained_that_dns_names() {
    let mut snapshot = mesh();
    let mut headless = Service::new("a", "db.a.svc");
    headless.ports = [(5432, 5432)].into();
    headless.ip_families = Some(IpFamilies::IPv4);
    snapshot.insert_service(headless);
    for (name, ips) in [("db-1", ["fd00::5", "10.0.0.5"]), ("db-2", ["fd00::6", "10.0.0.6"])] {
        let mut db = workload(name, ips[0]);
        db.workload_ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        db.services = [("a/db.a.svc".parse().unwrap(), [].into())].into();
        snapshot.insert_workload(db);
    }
    let mut sick = (**snapshot.workload(&WorkloadUid::new("K//Pod/a/db-2")).unwrap()).clone();
    sick.status = Health::Unhealthy;
    snapshot.insert_workload(sick.clone());
    let mut far = sick;
    far.uid = WorkloadUid::new("far//Pod/a/db-3");
    (far.network, far.status) = (Network::from(Arc::from("far")), Health::Healthy);
    snapshot.insert_workload(far);
    let told = ask(&snapshot, "a/client", "db.a.svc");
    let ends: Vec<_> = told.iter().map(|told| told.destination.as_ref().unwrap().as_str()).collect();
    assert_eq!(ends, ["K//Pod/a/db-1"]);
    assert!(says(&told[0], "destination", "10.0.0.5:5432"), "{told:?}");
}

#[test]
fn settings_show_with_the_level_that_decided() {
    let mut snapshot = mesh();
    let set = |snapshot: &mut Snapshot, text: &str| {
        snapshot.set_settings(serde_json::from_str::<Settings>(text).unwrap());
    };
    set(&mut snapshot, r#"{"namespaces": {"a": {"workloads": {"web": {"ports": {"8080": "disable"}}}}}}"#);
    let told = ask(&snapshot, "a/client", "a/web-1");
    assert!(says(&told[0], "path", "plaintext") && says(&told[0], "path", "by the workload's port 8080"));
    assert!(told[0].is_allowed());

    set(&mut snapshot, r#"{"defaultDeny": true, "audit": {"mtls": "strict", "defaultDeny": false}}"#);
    let told = ask(&snapshot, "192.0.2.1", "a/web-1");
    assert_eq!(told[0].refused, Some("default_deny"));
    assert!(says(&told[0], "audit", "plaintext_in_strict"));

    set(&mut snapshot, r#"{"egress": "registryOnly"}"#);
    assert_eq!(ask(&snapshot, "a/client", "198.51.100.1:443")[0].refused, Some("not_in_registry"));
}

#[test]
fn what_a_pods_own_node_asks_counts() {
    let snapshot = mesh();
    let pods = [(WorkloadUid::new("K//Pod/a/web-1"), MtlsMode::Strict)].into();
    let mesh = Mesh { snapshot: &snapshot, pods: &pods, neighbourhood: None };
    let told = explain(mesh, &Source::Stranger("192.0.2.1".parse().unwrap()), "10.0.0.2:80".parse().unwrap());
    assert_eq!(told[0].refused, Some("plaintext_in_strict"));
}

#[test]
fn names_are_found_as_people_write_them() {
    let snapshot = mesh();
    let client = find_source(&snapshot, "K//Pod/a/client").unwrap();
    let found = |text: &str| {
        find_destination(&snapshot, &client, text)
            .map(|found| found.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    for (text, address) in [
        ("10.0.0.9:1", "10.0.0.9:1"),
        ("[fd00::1]:1", "[fd00::1]:1"),
        ("web.a.svc:80", "10.96.0.1:80"),
        ("a/web", "10.96.0.1:80"),
        ("web", "10.96.0.1:80"),
        ("a/web-2:9", "10.0.0.3:9"),
        ("a/web-2", "10.0.0.3:8080"),
        ("10.0.0.3", "10.0.0.3:8080"),
    ] {
        assert_eq!(found(text).as_deref(), Ok(address), "{text}");
    }
    assert!(matches!(found("a/client"), Err(NotFound::Port(..))));
    assert!(matches!(found("a/nobody"), Err(NotFound::Destination(_))));
    assert!(matches!(find_source(&snapshot, "a/nobody"), Err(NotFound::Source(_))));
}

/// Would break if what only a waypoint decides, or depends on DNS, were told as allowed.
#[test]
fn what_is_decided_elsewhere_is_told_so() {
    let mut snapshot = mesh();
    let way = workload("way", "10.0.0.9");
    snapshot.insert_workload(way);
    let mut behind = workload("behind", "10.0.0.8");
    behind.waypoint = Some(serde_json::from_str(r#"{"destination": "/10.0.0.9"}"#).unwrap());
    snapshot.insert_workload(behind);
    let told = ask(&snapshot, "a/client", "10.0.0.8:80").pop().unwrap();
    assert_eq!((told.refused, told.undecided, told.is_allowed()), (None, Some("waypoint_decides"), false));
}

/// Offline nobody knows who is enrolled where: it can only be said what would be.
#[test]
fn what_stays_on_one_node_may_go_past_the_network_and_is_decided_alike() {
    let mut snapshot = mesh();
    for (name, ip, node) in
        [("client", "10.0.0.1", "n1"), ("web-1", "10.0.0.2", "n1"), ("web-2", "10.0.0.3", "n2")]
    {
        let mut workload = workload(name, ip);
        workload.node = node.into();
        snapshot.insert_workload(workload);
    }
    enforce(&mut snapshot, ONLY_CLIENT);
    for (to, is_beside) in [("10.0.0.2:80", true), ("10.0.0.3:80", false)] {
        let told = ask(&snapshot, "a/client", to).pop().unwrap();
        assert!(told.is_allowed(), "{told:?}");
        assert_eq!(says(&told, "same node", "sameNode: direct"), is_beside, "{told:?}");
    }
}

/// What would be told wrongly: TLS where there is none, or a way past the network that nobody goes.
#[test]
fn a_daemon_knows_whether_its_pods_go_past_the_network() {
    let mut snapshot = mesh();
    for (name, ip, node) in
        [("client", "10.0.0.1", "n1"), ("web-1", "10.0.0.2", "n1"), ("web-2", "10.0.0.3", "n1")]
    {
        let mut workload = workload(name, ip);
        workload.node = node.into();
        snapshot.insert_workload(workload);
    }
    enforce(&mut snapshot, ONLY_CLIENT);
    let pods = BTreeMap::new();
    let enrolled =
        |name: &str, ip: &str| (WorkloadUid::new(&format!("K//Pod/a/{name}")), vec![ip.parse().unwrap()]);
    let explained = |node: &str, tunnel, enrolled: Vec<_>, to: &str| {
        let here = Neighbourhood { node: node.to_owned(), tunnel, pods: enrolled.into_iter().collect() };
        let mesh = Mesh { snapshot: &snapshot, pods: &pods, neighbourhood: Some(&here) };
        let source = find_source(&snapshot, "a/client").unwrap();
        explain(mesh, &source, to.parse().unwrap()).pop().unwrap()
    };
    let both = || vec![enrolled("client", "10.0.0.1"), enrolled("web-1", "10.0.0.2")];

    let told = explained("n1", None, both(), "10.0.0.2:80");
    assert!(told.direct && told.mutual_tls == Some(false) && says(&told, "path", "directly"), "{told:?}");
    assert!(says(&told, "decision", "by policy a/p"), "identity does not count: {told:?}");

    let told = explained("n1", Some("it is configured so"), both(), "10.0.0.2:80");
    assert!(!told.direct && told.mutual_tls == Some(true), "{told:?}");
    assert!(says(&told, "same node", "through the tunnel: it is configured so"), "{told:?}");

    // Not enrolled here, at another address, without an address of the family, or somebody else's pods.
    let told = explained("n1", None, both(), "10.0.0.3:80");
    assert!(!told.direct && says(&told, "same node", "web-2 is not enrolled by this daemon"), "{told:?}");
    let elsewhere = vec![enrolled("client", "10.0.0.1"), enrolled("web-1", "10.0.0.9")];
    assert!(!explained("n1", None, elsewhere, "10.0.0.2:80").direct);
    let other_family = vec![enrolled("client", "fd00::1"), enrolled("web-1", "10.0.0.2")];
    let told = explained("n1", None, other_family, "10.0.0.2:80");
    assert!(!told.direct && says(&told, "same node", "no address like"), "{told:?}");
    let told = explained("n2", None, vec![], "10.0.0.2:80");
    assert!(!told.direct && says(&told, "same node", "where that node's configuration says"), "{told:?}");
}
