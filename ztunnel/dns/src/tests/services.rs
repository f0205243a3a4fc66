//! Which names mean what.

use super::*;

/// Catches: a pod that is told of an address that it cannot use, or is told that a name does not exist of which it only
/// asked for the wrong family: resolvers then give up the name altogether.
#[test]
fn a_service_has_the_addresses_of_the_clients_network() {
    let v4 = service("shop/four.example", &["/10.96.0.4", "far/10.96.0.5", "/10.97.0.0/16"]);
    let far = service("shop/far.example", &["far/10.96.0.6"]);
    let snapshot = mesh(vec![v4, far], vec![]);
    let web = "web.shop.svc.cluster.local";
    assert_eq!(addresses(&snapshot, web, RecordType::A), ips(&["10.96.0.1"]));
    assert_eq!(addresses(&snapshot, web, RecordType::AAAA), ips(&["fd96::1"]));
    assert_eq!(addresses(&snapshot, "four.example", RecordType::A), ips(&["10.96.0.4"]));
    assert_eq!(addresses(&snapshot, "four.example", RecordType::AAAA), ips(&[]));
    assert_eq!(addresses(&snapshot, "far.example", RecordType::A), None, "perhaps somebody else knows one");
}

/// Catches: a short name that only means something if the pod's resolver completes it; one that means another
/// namespace's service; and a domain that is not the cluster's.
#[test]
fn short_names_are_completed_as_a_pods_resolver_does() {
    let other = service("bank/web.bank.svc.cluster.local", &["/10.96.0.2"]);
    let snapshot = mesh(vec![other], vec![]);
    for (name, ip) in [
        ("web", "10.96.0.1"),
        ("web.shop", "10.96.0.1"),
        ("web.shop.svc", "10.96.0.1"),
        ("web.bank", "10.96.0.2"),
        ("web.bank.svc", "10.96.0.2"),
        ("web.bank.svc.cluster.local", "10.96.0.2"),
    ] {
        assert_eq!(addresses(&snapshot, name, RecordType::A), ips(&[ip]), "{name}");
    }
    let elsewhere = View { cluster_domain: "example.internal", ..UDP };
    assert!(ask(&snapshot, "client", &request("web", RecordType::A), &elsewhere).is_none());
}

/// Catches: a wildcard that hides a service of its own name, or answers for the domain itself.
#[test]
fn a_wildcard_answers_for_what_nobody_else_does() {
    let services = vec![
        service("shop/*.example.com", &["/10.96.1.1"]),
        service("shop/*.eu.example.com", &["/10.96.1.2"]),
        service("shop/own.example.com", &["/10.96.1.3"]),
    ];
    let snapshot = mesh(services, vec![]);
    for (name, ip) in [
        ("a.example.com", "10.96.1.1"),
        ("a.b.example.com", "10.96.1.1"),
        ("a.eu.example.com", "10.96.1.2"),
        ("own.example.com", "10.96.1.3"),
    ] {
        assert_eq!(addresses(&snapshot, name, RecordType::A), ips(&[ip]), "{name}");
    }
    assert_eq!(addresses(&snapshot, "example.com", RecordType::A), None);
    assert_eq!(addresses(&snapshot, "*.example.com", RecordType::A), None, "a host has no such name");
}

/// Catches: a service that only its own namespace may see, shown to another; and one name for two services that means
/// one thing to DNS and another to connections.
#[test]
fn of_services_of_one_name_the_client_gets_what_a_connection_would() {
    let hidden = |key, vip| Service { visibility: Visibility::Namespace, ..service(key, &[vip]) };
    let canonical = |key, vip| Service { canonical: true, ..service(key, &[vip]) };
    let services = vec![
        hidden("bank/hidden.example", "/10.96.2.1"),
        service("aaa/both.example", &["/10.96.2.2"]),
        canonical("bank/both.example", "/10.96.2.3"),
        service("aaa/own.example", &["/10.96.2.4"]),
        service("shop/own.example", &["/10.96.2.5"]),
    ];
    let snapshot = mesh(services, vec![]);
    assert_eq!(addresses(&snapshot, "hidden.example", RecordType::A), None);
    assert_eq!(addresses(&snapshot, "both.example", RecordType::A), ips(&["10.96.2.3"]));
    assert_eq!(addresses(&snapshot, "own.example", RecordType::A), ips(&["10.96.2.5"]));
}

fn headless() -> (Service, Vec<Workload>) {
    let all = "shop/db.shop.svc.cluster.local";
    let mut sick = workload("db-2", "shop", &["10.1.0.3"], &[all]);
    sick.status = Health::Unhealthy;
    let mut far = workload("db-3", "shop", &["10.1.0.4"], &[all]);
    far.network = Network::new("far");
    let first = workload("db-0", "shop", &["10.1.0.1", "fd01::1"], &[all]);
    let mut second = workload("db-1", "shop", &["10.1.0.2"], &[all]);
    second.services = [(all.parse().unwrap(), [(80, 9090)].into())].into();
    (service(all, &[]), vec![first, second, sick, far])
}

/// Catches: an endpoint that is ill, or that is not reached from here, among those a pod is sent to.
#[test]
fn a_headless_service_has_its_endpoints_addresses() {
    let (mut db, pods) = headless();
    let snapshot = mesh(vec![db.clone()], pods.clone());
    assert_eq!(addresses(&snapshot, "db", RecordType::A), ips(&["10.1.0.1", "10.1.0.2"]));
    assert_eq!(addresses(&snapshot, "db", RecordType::AAAA), ips(&["fd01::1"]));
    let mut any = LoadBalancer::new(Mode::Standard, Vec::new());
    any.health_policy = HealthPolicy::AllowAll;
    db.load_balancer = Some(any);
    let snapshot = mesh(vec![db], pods.clone());
    assert_eq!(
        addresses(&snapshot, "db", RecordType::A).unwrap().len(),
        3,
        "the service wants the ill ones too"
    );
    let (db, _) = headless();
    let snapshot = mesh(vec![db.clone()], vec![pods[2].clone()]);
    assert_eq!(addresses(&snapshot, "db", RecordType::A), ips(&[]), "it is known, and nobody is well");
    let snapshot = mesh(vec![db], vec![]);
    assert_eq!(addresses(&snapshot, "db", RecordType::A), None, "perhaps somebody else knows one");
}

/// Catches: a member of a stateful set that its peers do not find; a name that outlives its pod.
#[test]
fn an_endpoint_of_a_headless_service_has_a_name_of_its_own() {
    let (db, pods) = headless();
    let mut snapshot = mesh(vec![], pods);
    snapshot.insert_service(db);
    for name in ["db-1.db", "db-1.db.shop", "db-1.db.shop.svc", "db-1.db.shop.svc.cluster.local"] {
        assert_eq!(addresses(&snapshot, name, RecordType::A), ips(&["10.1.0.2"]), "{name}");
        assert_eq!(addresses(&snapshot, name, RecordType::AAAA), ips(&[]), "{name}");
    }
    assert_eq!(addresses(&snapshot, "db-2.db", RecordType::A), ips(&[]), "ill");
    assert_eq!(addresses(&snapshot, "db-9.db", RecordType::A), None);
    assert_eq!(addresses(&snapshot, "db-1.web", RecordType::A), None, "not of this service");
    snapshot.remove_workload(&WorkloadUid::new("db-1"));
    assert_eq!(addresses(&snapshot, "db-1.db", RecordType::A), None);
}

fn srv(snapshot: &Snapshot, name: &str) -> Option<Vec<(String, u16)>> {
    let told = ask(snapshot, "client", &request(name, RecordType::SRV), &TCP)?;
    let served = told.answers.iter().map(|record| match &record.data {
        RData::SRV(srv) => (srv.target.to_string(), srv.port),
        other => panic!("{other:?} is no SRV"),
    });
    let mut served: Vec<_> = served.collect();
    for (target, _) in &served {
        let has_target = |record: &hickory_proto::rr::Record| record.name.to_string() == *target;
        assert!(told.additionals.iter().any(has_target), "{target} comes with its address");
    }
    served.sort();
    Some(served)
}

/// Catches: a port of the service told where the endpoint's own is meant, or the other way round.
#[test]
fn ports_are_found_by_name_and_by_number() {
    let (db, pods) = headless();
    let snapshot = mesh(vec![db], pods);
    let web = "web.shop.svc.cluster.local.".to_owned();
    for name in ["_http._tcp.web.shop.svc.cluster.local", "_80._tcp.web", "_HTTP._TCP.web"] {
        assert_eq!(srv(&snapshot, name), Some(vec![(web.clone(), 80)]), "{name}");
    }
    assert_eq!(srv(&snapshot, "web"), Some(vec![(web.clone(), 80), (web, 443)]));
    let of = |pod: &str, port| (format!("{pod}.db.shop.svc.cluster.local."), port);
    assert_eq!(srv(&snapshot, "_http._tcp.db"), Some(vec![of("db-0", 8080), of("db-1", 9090)]));
    for unknown in ["_grpc._tcp.web", "_81._tcp.web", "_http._udp.web", "_http.web", "_http._tcp.db-0.db"] {
        assert_eq!(srv(&snapshot, unknown), None, "{unknown}");
    }
}
