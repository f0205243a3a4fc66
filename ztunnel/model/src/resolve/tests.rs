//! One mesh, and where connections in it go.

use super::*;
use crate::service::ServiceKey;

mod direct;
mod endpoints;
mod services;
mod waypoints;

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
    as_client(snapshot, &client(), to, dice)
}

fn as_client(snapshot: &Snapshot, client: &Workload, to: &str, dice: u64) -> Result<Route, Refusal> {
    let resolved = resolve(snapshot, client, OriginalDst(to.parse().unwrap()), &Choice::of(dice))?;
    match resolved.way {
        Way::Route(route) => Ok(route),
        Way::ByName(named) => panic!("expected an address, got {named:?}"),
    }
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
    assert_eq!(&*passthrough(&mesh, "10.0.0.3:80").destination.unwrap().name, "plain");
    assert!(passthrough(&mesh, "10.0.0.4:80").destination.is_none(), "a node's address belongs to no pod");
    assert!(passthrough(&mesh, "192.0.2.1:80").destination.is_none());
    assert!(passthrough(&mesh, "10.0.0.1:80").destination.is_some(), "a pod's call to itself leaves no pod");
}

/// Both ends must agree that there is no tunnel; the far end would refuse one.
#[test]
fn where_mutual_tls_is_disabled_the_way_is_plaintext() {
    let mut mesh = mesh([workload("server", &["10.0.0.2"], Protocol::Hbone)], []);
    let settings = r#"{"namespaces": {"default": {"workloads": {"server": {"ports": {"80": "disable"}}}}}}"#;
    mesh.set_settings(serde_json::from_str(settings).unwrap());
    assert_eq!(&*passthrough(&mesh, "10.0.0.2:80").destination.unwrap().name, "server");
    assert_eq!(&*tunnel(&mesh, "10.0.0.2:81", 0).destination.name, "server");
}

#[test]
fn an_authority_names_an_address_of_the_pod_or_a_port_of_its_service() {
    let web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    let server = endpoint("server", "10.0.0.2", WEB);
    let other = service("default/other.example", &["/10.96.0.2"], &[(80, 8080)]);
    let mesh = mesh([server.clone()], [web, other]);
    let ask = |authority: &str| {
        let answer = resolve_authority(&mesh, &server, "10.0.0.2".parse().unwrap(), authority);
        answer.map(|asked| asked.target.to_string()).map_err(|refusal| refusal.reason())
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

/// Requests that name a service reach the workload by its own entry, whatever other namespaces call so.
#[test]
fn an_authority_means_a_service_that_the_workload_serves() {
    let services = ["aaa/web.example", "default/web.example"].map(|key| service(key, &[], &[(80, 8080)]));
    let server = endpoint("server", "10.0.0.2", "default/web.example");
    let mesh = mesh([server.clone()], services);
    let asked = resolve_authority(&mesh, &server, "10.0.0.2".parse().unwrap(), "web.example:80");
    assert_eq!(asked.unwrap().target, "10.0.0.2:8080".parse().unwrap());
}

/// A waypoint is asked for others' addresses, and must learn which; nobody else may be.
#[test]
fn who_ends_tunnels_itself_is_told_what_was_named() {
    let web = service(WEB, &["/fd96::1", "/10.96.0.1"], &[(80, 8080)]);
    let mut way = endpoint("way", "10.0.0.2", WEB);
    way.application_tunnel = Some(serde_json::from_str(r#"{"protocol": "PROXY", "port": 15088}"#).unwrap());
    let mesh = mesh([way.clone()], [web]);
    let ask = |authority: &str| {
        let answer = resolve_authority(&mesh, &way, "10.0.0.2".parse().unwrap(), authority);
        answer
            .map(|asked| (asked.target.to_string(), asked.named.to_string()))
            .map_err(|refusal| refusal.reason())
    };
    for (authority, target, named) in [
        ("10.0.0.2:80", "10.0.0.2:80", "10.0.0.2:80"),
        ("192.0.2.1:443", "10.0.0.2:443", "192.0.2.1:443"),
        ("[fd96::1]:80", "10.0.0.2:80", "[fd96::1]:80"),
        ("web.default.svc.cluster.local:80", "10.0.0.2:8080", "10.96.0.1:80"),
    ] {
        assert_eq!(ask(authority), Ok((target.to_owned(), named.to_owned())), "{authority}");
    }
    assert_eq!(ask("192.0.2.1:15008"), Err("reserved_port"));
}
