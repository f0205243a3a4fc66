//! One mesh, and where connections in it go.

use super::*;
use crate::{service::ServiceKey, workload::Health};

const WEB: &str = "default/web.default.svc.cluster.local";

fn workload(name: &str, ips: &[&str], protocol: Protocol) -> Workload {
    let identity = format!("spiffe://td/ns/default/sa/{name}").parse().unwrap();
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    let mut workload = Workload::new(WorkloadUid::new(name), name, identity, ips);
    workload.protocol = protocol;
    workload
}

fn endpoint(name: &str, ip: &str, service: &str) -> Workload {
    let mut workload = workload(name, &[ip], Protocol::Hbone);
    workload.services.insert(service.parse().unwrap(), [].into());
    workload
}

fn service(key: &str, vips: &[&str], ports: &[(u16, u16)]) -> Service {
    let key: ServiceKey = key.parse().unwrap();
    let mut service = Service::new(&key.namespace, &key.hostname);
    service.vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
    service.ports = ports.iter().copied().collect();
    service
}

fn client() -> Workload {
    workload("client", &["10.0.0.1", "fd00::1"], Protocol::Hbone)
}

fn mesh(
    workloads: impl IntoIterator<Item = Workload>,
    services: impl IntoIterator<Item = Service>,
) -> Snapshot {
    let mut snapshot = Snapshot::default();
    workloads.into_iter().chain([client()]).for_each(|w| snapshot.insert_workload(w));
    services.into_iter().for_each(|s| snapshot.insert_service(s));
    snapshot
}

fn go(snapshot: &Snapshot, to: &str, dice: u64) -> Result<Route, Refusal> {
    resolve(snapshot, &client(), OriginalDst(to.parse().unwrap()), dice)
}

fn tunnel(snapshot: &Snapshot, to: &str, dice: u64) -> TunnelRoute {
    match go(snapshot, to, dice) {
        Ok(Route::Tunnel(route)) => route,
        other => panic!("expected a tunnel to {to}, got {other:?}"),
    }
}

fn passthrough(snapshot: &Snapshot, to: &str) -> PassthroughRoute {
    match go(snapshot, to, 0) {
        Ok(Route::Passthrough(route)) => route,
        other => panic!("expected plaintext to {to}, got {other:?}"),
    }
}

#[test]
fn a_mesh_workload_is_reached_through_a_tunnel_that_expects_its_identity() {
    let mesh = mesh([workload("server", &["10.0.0.2", "fd00::2"], Protocol::Hbone)], []);
    for (to, gateway) in [("10.0.0.2:80", "10.0.0.2:15008"), ("[fd00::2]:80", "[fd00::2]:15008")] {
        let route = tunnel(&mesh, to, 0);
        assert_eq!((route.authority, route.gateway), (to.parse().unwrap(), gateway.parse().unwrap()));
        assert_eq!(route.expected, ["spiffe://td/ns/default/sa/server".parse().unwrap()]);
        assert_eq!(route.source.to_string(), "spiffe://td/ns/default/sa/client");
    }
    assert_eq!(tunnel(&mesh, "[::ffff:10.0.0.2]:80", 0).authority, "10.0.0.2:80".parse().unwrap());
}

#[test]
fn strangers_and_workloads_without_hbone_are_reached_in_plaintext() {
    let mut host = workload("host", &["10.0.0.4"], Protocol::Hbone);
    host.network_mode = NetworkMode::HostNetwork;
    let mesh = mesh([workload("plain", &["10.0.0.3"], Protocol::Tcp), host], []);
    assert_eq!(passthrough(&mesh, "10.0.0.3:80").destination.unwrap().name, "plain");
    assert!(passthrough(&mesh, "10.0.0.4:80").destination.is_none(), "a node's address belongs to no pod");
    assert!(passthrough(&mesh, "192.0.2.1:80").destination.is_none());
    assert!(passthrough(&mesh, "10.0.0.1:80").destination.is_some(), "a pod's call to itself leaves no pod");
}

#[test]
fn a_service_leads_to_an_endpoint_of_the_clients_family_and_its_port() {
    let mut own_port = endpoint("two", "10.0.0.3", WEB);
    own_port.services.insert(WEB.parse().unwrap(), [(80, 9090)].into());
    let mut web = service(WEB, &["/10.96.0.1", "/fd00:96::1"], &[(80, 8080)]);
    web.subject_alt_names = vec!["spiffe://td/ns/default/sa/vouched".parse().unwrap()];
    let mesh = mesh([endpoint("one", "10.0.0.2", WEB), own_port, endpoint("six", "fd00::2", WEB)], [web]);

    let targets: Vec<String> =
        (0..2).map(|dice| tunnel(&mesh, "10.96.0.1:80", dice).authority.to_string()).collect();
    assert_eq!(targets, ["10.0.0.2:8080", "10.0.0.3:9090"]);
    assert_eq!(tunnel(&mesh, "[fd00:96::1]:80", 7).authority.to_string(), "[fd00::2]:8080");
    let expected = tunnel(&mesh, "10.96.0.1:80", 0).expected;
    assert_eq!(expected.iter().map(SpiffeId::service_account).collect::<Vec<_>>(), ["one", "vouched"]);
    assert_eq!(go(&mesh, "10.96.0.1:81", 0).unwrap_err().reason(), "no_such_service_port");
}

#[test]
fn endpoints_are_chosen_by_weight_and_never_unhealthy_or_of_another_network() {
    let mut heavy = endpoint("heavy", "10.0.0.2", WEB);
    heavy.capacity = 3;
    let mut sick = endpoint("sick", "10.0.0.4", WEB);
    sick.status = Health::Unhealthy;
    let mut idle = endpoint("idle", "10.0.0.5", WEB);
    idle.capacity = 0;
    let mut far = endpoint("far", "10.0.0.6", WEB);
    far.network = crate::Network::new("far");
    let web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    let mesh1 =
        mesh([heavy, endpoint("light", "10.0.0.3", WEB), sick.clone(), idle, far.clone()], [web.clone()]);
    let hits =
        (0..400).filter(|dice| tunnel(&mesh1, "10.96.0.1:80", *dice).destination.name == "heavy").count();
    assert_eq!(hits, 300, "three of four, and nobody but the two");

    assert_eq!(
        go(&mesh([sick], [web.clone()]), "10.96.0.1:80", 1).unwrap_err().reason(),
        "no_healthy_endpoint"
    );
    assert_eq!(go(&mesh([far], [web]), "10.96.0.1:80", 1).unwrap_err().reason(), "other_network");
}

fn waypoint(destination: &str) -> Option<Waypoint> {
    Some(
        serde_json::from_value(serde_json::json!({ "destination": destination, "hboneMtlsPort": 15008 }))
            .unwrap(),
    )
}

#[test]
fn traffic_to_a_service_with_a_waypoint_goes_through_the_waypoint() {
    const WAY: &str = "default/way.default.svc.cluster.local";
    for named in [WAY, "/10.96.0.9"] {
        let mut web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
        web.waypoint = waypoint(named);
        let way = service(WAY, &["/10.96.0.9"], &[(15008, 15008)]);
        let proxy = endpoint("proxy", "10.0.0.9", WAY);
        let mesh = mesh([endpoint("one", "10.0.0.2", WEB), proxy.clone()], [web, way]);
        let route = tunnel(&mesh, "10.96.0.1:80", 0);
        assert_eq!(route.gateway, "10.0.0.9:15008".parse().unwrap());
        assert_eq!(route.authority, "10.96.0.1:80".parse().unwrap(), "the waypoint chooses the endpoint");
        assert_eq!(route.expected, std::slice::from_ref(&proxy.identity));

        let from_proxy = resolve(&mesh, &proxy, OriginalDst("10.96.0.1:80".parse().unwrap()), 0).unwrap();
        let Route::Tunnel(direct) = from_proxy else { panic!("{from_proxy:?}") };
        assert_eq!(direct.authority, "10.0.0.2:8080".parse().unwrap(), "the waypoint itself must not loop");
    }
}

#[test]
fn a_workloads_waypoint_is_never_bypassed_even_when_unknown() {
    let mut server = workload("server", &["10.0.0.2"], Protocol::Hbone);
    server.waypoint = waypoint("/10.0.0.9");
    let proxy = workload("proxy", &["10.0.0.9"], Protocol::Hbone);
    let known = mesh([server.clone(), proxy], []);
    let route = tunnel(&known, "10.0.0.2:80", 0);
    assert_eq!(
        (route.gateway, route.authority),
        ("10.0.0.9:15008".parse().unwrap(), "10.0.0.2:80".parse().unwrap())
    );
    assert_eq!(route.destination.name, "server");
    let refusal = go(&mesh([server], []), "10.0.0.2:80", 0).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownWaypoint("/10.0.0.9".into()));
}

#[test]
fn an_authority_names_an_address_of_the_pod_or_a_port_of_its_service() {
    let web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    let server = endpoint("server", "10.0.0.2", WEB);
    let other = service("default/other.example", &["/10.96.0.2"], &[(80, 8080)]);
    let mesh = mesh([server.clone()], [web, other]);
    let ask = |authority: &str| {
        let answer = resolve_authority(&mesh, &server, "10.0.0.2".parse().unwrap(), authority);
        answer.map(|target| target.to_string()).map_err(|refusal| refusal.reason())
    };
    for (authority, answer) in [
        ("10.0.0.2:80", Ok("10.0.0.2:80")),
        ("web.default.svc.cluster.local:80", Ok("10.0.0.2:8080")),
        ("web.default.svc.cluster.local:81", Err("unknown_destination")),
        ("other.example:80", Err("unknown_destination")),
        ("10.0.0.3:80", Err("wrong_destination")),
        ("[::1]:80", Err("wrong_destination")),
        ("10.0.0.2:0", Err("reserved_port")),
        ("10.0.0.2:15001", Err("reserved_port")),
        ("10.0.0.2", Err("bad_authority")),
        ("10.0.0.2:65536", Err("bad_authority")),
        ("", Err("bad_authority")),
    ] {
        assert_eq!(ask(authority), answer.map(str::to_owned), "{authority}");
    }
}
