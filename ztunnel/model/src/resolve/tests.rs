//! One mesh, and where connections in it go.

use super::*;
use crate::{
    outlier::Outliers,
    service::{IpFamilies, LoadBalancer, Scope, ServiceKey, Visibility},
    workload::{Health, Waypoint},
};

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
    assert_eq!(passthrough(&mesh, "10.0.0.3:80").destination.unwrap().name, "plain");
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
    assert_eq!(passthrough(&mesh, "10.0.0.2:80").destination.unwrap().name, "server");
    assert_eq!(tunnel(&mesh, "10.0.0.2:81", 0).destination.name, "server");
}

#[test]
fn a_service_leads_to_an_endpoint_and_its_own_port() {
    let mut own_port = endpoint("two", "10.0.0.3", WEB);
    own_port.services.insert(WEB.parse().unwrap(), [(80, 9090)].into());
    let mut web = service(WEB, &["/10.96.0.1", "/fd00:96::1"], &[(80, 8080)]);
    web.subject_alt_names = vec!["spiffe://td/ns/default/sa/vouched".parse().unwrap()];
    let mesh = mesh([endpoint("one", "10.0.0.2", WEB), own_port], [web]);
    let targets: Vec<String> =
        (0..2).map(|dice| tunnel(&mesh, "10.96.0.1:80", dice).authority.to_string()).collect();
    assert_eq!(targets, ["10.0.0.2:8080", "10.0.0.3:9090"]);
    let expected = tunnel(&mesh, "10.96.0.1:80", 0).expected;
    assert_eq!(expected.iter().map(SpiffeId::service_account).collect::<Vec<_>>(), ["one", "vouched"]);
    assert_eq!(go(&mesh, "10.96.0.1:81", 0).unwrap_err().reason(), "no_such_service_port");
}

/// A client is not sent to a family it does not have, and gets the one it asked for where there is a choice.
#[test]
fn families_follow_the_client_the_endpoint_and_the_service() {
    let mut both = endpoint("both", "10.0.0.2", WEB);
    both.workload_ips.push("fd00::2".parse().unwrap());
    let web = service(WEB, &["/10.96.0.1", "/fd00:96::1"], &[(80, 8080)]);
    let only = |family| {
        let mut web = web.clone();
        web.ip_families = Some(family);
        web
    };
    let v4_client = workload("v4", &["10.0.0.8"], Protocol::Hbone);
    let chosen = |mesh: &Snapshot, client: &Workload, to: &str| -> Vec<String> {
        let all = (0..6).map(|dice| as_client(mesh, client, to, dice));
        let mut all: Vec<_> = all
            .map(|route| match route {
                Ok(Route::Tunnel(route)) => route.authority.to_string(),
                Ok(other) => format!("{other:?}"),
                Err(refusal) => refusal.reason().to_owned(),
            })
            .collect();
        all.sort();
        all.dedup();
        all
    };
    let six = endpoint("six", "fd00::3", WEB);
    let dual = mesh([both.clone(), six.clone()], [web.clone()]);
    assert_eq!(chosen(&dual, &client(), "10.96.0.1:80"), ["10.0.0.2:8080", "[fd00::3]:8080"]);
    assert_eq!(chosen(&dual, &client(), "[fd00:96::1]:80"), ["[fd00::2]:8080", "[fd00::3]:8080"]);
    assert_eq!(chosen(&dual, &v4_client, "10.96.0.1:80"), ["10.0.0.2:8080"]);
    let narrowed = mesh([both, six], [only(IpFamilies::IPv6)]);
    assert_eq!(chosen(&narrowed, &client(), "10.96.0.1:80"), ["[fd00::2]:8080", "[fd00::3]:8080"]);
    assert_eq!(chosen(&narrowed, &v4_client, "10.96.0.1:80"), ["no_healthy_endpoint"]);
}

/// A port whose target only endpoints know leads to those that know it, and nowhere by a guess.
#[test]
fn a_named_target_port_is_each_endpoints_own() {
    let mut knows = endpoint("knows", "10.0.0.3", WEB);
    knows.services.insert(WEB.parse().unwrap(), [(80, 9090)].into());
    let web = service(WEB, &["/10.96.0.1"], &[(80, 0), (81, 8081)]);
    let mesh = mesh([endpoint("not", "10.0.0.2", WEB), knows.clone()], [web]);
    for dice in 0..4 {
        assert_eq!(tunnel(&mesh, "10.96.0.1:80", dice).authority.to_string(), "10.0.0.3:9090");
    }
    assert_eq!(tunnel(&mesh, "10.96.0.1:81", 0).authority.to_string(), "10.0.0.3:8081");
    assert_eq!(tunnel(&mesh, "10.96.0.1:81", 1).authority.to_string(), "10.0.0.2:8081");
}

/// The narrowest block around an address counts; a workload's own address goes before any block.
#[test]
fn a_block_of_addresses_stands_for_its_service() {
    let at = |key, block| service(key, &[block], &[(80, 8080)]);
    let wide = at("default/wide.example", "/10.0.0.0/8");
    let narrow = at("default/narrow.example", "/10.200.0.0/16");
    let elsewhere = at("default/elsewhere.example", "far/10.200.7.0/24");
    let mesh = mesh(
        [
            endpoint("w", "10.0.0.2", "default/wide.example"),
            endpoint("n", "10.0.0.3", "default/narrow.example"),
        ],
        [wide, narrow, elsewhere],
    );
    for (to, name) in [("10.201.0.1:80", "w"), ("10.200.7.7:80", "n")] {
        assert_eq!(tunnel(&mesh, to, 0).destination.name, name, "{to}");
    }
    assert!(tunnel(&mesh, "10.0.0.3:80", 0).service.is_none(), "a workload's own address");
    assert!(passthrough(&mesh, "11.0.0.1:80").service.is_none());
}

/// Without a choice to make the connection goes where it was going, by the mesh's ways and not around them.
#[test]
fn a_service_in_passthrough_chooses_nobody() {
    let mut web = service(WEB, &["/10.0.0.0/16"], &[(80, 8080)]);
    web.load_balancer = Some(LoadBalancer::new(Mode::Passthrough, []));
    let other = endpoint("one", "10.0.0.2", WEB);
    let mesh = mesh([other], [web]);
    let stranger = passthrough(&mesh, "10.0.9.9:4711");
    assert_eq!((stranger.target.to_string().as_str(), stranger.service.is_some()), ("10.0.9.9:4711", true));
    assert_eq!(tunnel(&mesh, "10.0.0.2:80", 0).authority.to_string(), "10.0.0.2:80");
}

#[test]
fn a_service_of_another_namespace_only_is_not_there() {
    let mut web = service("other/web.example", &["/10.96.0.1"], &[(80, 8080)]);
    web.visibility = Visibility::Namespace;
    let mesh = mesh([endpoint("one", "10.0.0.2", "other/web.example")], [web]);
    assert!(passthrough(&mesh, "10.96.0.1:80").service.is_none());
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
    assert_eq!(go(&mesh([far], [web]), "10.96.0.1:80", 1).unwrap_err().reason(), "other_network_unsupported");
}

/// An operator who is told "other network" or "no endpoint" where the preference is to blame looks in the wrong place.
#[test]
fn nobody_within_the_scope_is_a_reason_of_its_own() {
    let mut web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    web.load_balancer = Some(LoadBalancer::new(Mode::Strict, [Scope::Zone]));
    let mut other_zone = endpoint("zone", "10.0.0.2", WEB);
    other_zone.locality.zone = "other".into();
    let mut far = endpoint("far", "10.0.0.6", WEB);
    far.network = crate::Network::new("far");
    let reason = |workloads: &[&Workload]| {
        let mesh = mesh(workloads.iter().map(|&w| w.clone()), [web.clone()]);
        go(&mesh, "10.96.0.1:80", 0).unwrap_err().reason()
    };
    assert_eq!(reason(&[&other_zone, &far]), "no_endpoint_in_scope");
    assert_eq!(reason(&[&far]), "other_network_unsupported");
    assert_eq!(reason(&[]), "no_healthy_endpoint");
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

        let from_proxy = as_client(&mesh, &proxy, "10.96.0.1:80", 0).unwrap();
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

fn named(name: &str, hostname: &str) -> Workload {
    let mut workload = workload(name, &[], Protocol::Tcp);
    workload.hostname = hostname.to_owned();
    workload.services.insert(WEB.parse().unwrap(), [].into());
    workload
}

/// What DNS says is a stranger's word: it must not lead into the client itself, nor around the mesh.
#[test]
fn a_host_name_endpoint_is_reached_where_its_name_leads() {
    let web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    let server = workload("server", &["10.0.0.7"], Protocol::Hbone);
    let mesh = mesh([named("ext", "ext.example"), server], [web]);
    let resolved =
        resolve(&mesh, &client(), OriginalDst("10.96.0.1:80".parse().unwrap()), &Choice::of(0)).unwrap();
    let Way::ByName(way) = resolved.way else { panic!("{resolved:?}") };
    assert_eq!((way.hostname(), resolved.pick.unwrap().alternatives), ("ext.example", false));

    let candidates = |answer: &[&str], dice| -> Result<Vec<String>, Refusal> {
        let answer: Vec<IpAddr> = answer.iter().map(|ip| ip.parse().unwrap()).collect();
        way.candidates(&client(), &answer, dice).map(|ips| ips.iter().map(ToString::to_string).collect())
    };
    let answer = ["2001:db8::1", "192.0.2.1", "192.0.2.2", "127.0.0.1", "10.0.0.1", "::", "::ffff:127.0.0.1"];
    assert_eq!(candidates(&answer, 0).unwrap(), ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(candidates(&answer, 2).unwrap(), ["192.0.2.2", "192.0.2.1", "2001:db8::1"]);
    assert_eq!(candidates(&["127.0.0.1", "fd00::1"], 0).unwrap_err().reason(), "unusable_host_name");
    let v4_only = workload("v4", &["10.0.0.8"], Protocol::Hbone);
    assert!(way.candidates(&v4_only, &["2001:db8::1".parse().unwrap()], 0).is_err());

    let outside = way.at(&mesh, &client(), "192.0.2.1".parse().unwrap());
    let Route::Passthrough(outside) = outside else { panic!("{outside:?}") };
    assert_eq!(
        (outside.target.to_string().as_str(), outside.destination.unwrap().name.as_str()),
        ("192.0.2.1:8080", "ext")
    );
    let inside = way.at(&mesh, &client(), "10.0.0.7".parse().unwrap());
    assert!(matches!(inside, Route::Tunnel(route) if route.destination.name == "server"));
}

/// A second attempt must not meet the first one's endpoint; who keeps failing others is left for last; and when all
/// are set aside, they are used as if none were.
#[test]
fn endpoints_that_failed_are_not_chosen_while_there_are_others() {
    let names = ["a", "b", "c"];
    let endpoints = names.iter().zip(2..).map(|(name, n)| endpoint(name, &format!("10.0.0.{n}"), WEB));
    let mesh = mesh(endpoints, [service(WEB, &["/10.96.0.1"], &[(80, 8080)])]);
    let uids = names.map(WorkloadUid::new);
    let now = Instant::now();
    let chosen = |tried: &[WorkloadUid], aside: &[WorkloadUid]| -> (Vec<String>, bool) {
        let mut outliers = Outliers::default();
        for uid in aside.iter().flat_map(|uid| std::iter::repeat_n(uid, 3)) {
            outliers.failed(&(WEB.parse().unwrap(), 80), uid, now);
        }
        let (mut all, mut alternatives) = (Vec::new(), true);
        for dice in 0..6 {
            let choice = Choice { dice, tried, outliers: Some((&outliers, now)) };
            let resolved = resolve(&mesh, &client(), OriginalDst("10.96.0.1:80".parse().unwrap()), &choice);
            let pick = resolved.map(|resolved| resolved.pick.unwrap());
            alternatives &= pick.as_ref().is_ok_and(|pick| pick.alternatives);
            all.push(
                pick.map_or_else(|refusal| refusal.reason().to_owned(), |pick| pick.endpoint.to_string()),
            );
        }
        all.sort();
        all.dedup();
        (all, alternatives)
    };
    let of = |names: &[&str], alternatives| {
        (names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>(), alternatives)
    };
    assert_eq!(chosen(&[], &[]), of(&["a", "b", "c"], true));
    assert_eq!(chosen(&uids[..1], &[]), of(&["b", "c"], true));
    assert_eq!(chosen(&uids[..2], &[]), of(&["c"], false));
    assert_eq!(chosen(&[], &uids[..2]), of(&["c"], true));
    assert_eq!(chosen(&uids[2..], &uids[..2]), of(&["a", "b"], true), "set aside, and all that is left");
    assert_eq!(chosen(&[], &uids), of(&["a", "b", "c"], true), "never all");
    assert_eq!(chosen(&uids, &[]), of(&["no_healthy_endpoint"], false));
}

/// Requests that name a service reach the workload by its own entry, whatever other namespaces call so.
#[test]
fn an_authority_means_a_service_that_the_workload_serves() {
    let services = ["aaa/web.example", "default/web.example"].map(|key| service(key, &[], &[(80, 8080)]));
    let server = endpoint("server", "10.0.0.2", "default/web.example");
    let mesh = mesh([server.clone()], services);
    let target = resolve_authority(&mesh, &server, "10.0.0.2".parse().unwrap(), "web.example:80");
    assert_eq!(target.unwrap(), "10.0.0.2:8080".parse().unwrap());
}

#[test]
fn a_waypoint_in_another_network_is_refused_by_name() {
    let mut server = workload("server", &["10.0.0.2"], Protocol::Hbone);
    server.waypoint = waypoint("far/10.0.0.9");
    let refusal = go(&mesh([server], []), "10.0.0.2:80", 0).unwrap_err();
    assert_eq!(refusal.reason(), "other_network_unsupported");
    assert!(refusal.to_string().contains("east-west gateways are not supported yet"), "{refusal}");
}

/// The port that a waypoint is given with need not be one that its service lists.
#[test]
fn a_waypoint_is_reached_at_the_port_it_was_given_with() {
    let mut web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    web.waypoint = waypoint("default/way.example");
    let way = service("default/way.example", &[], &[(443, 8443)]);
    let mesh = mesh([endpoint("proxy", "10.0.0.9", "default/way.example")], [web, way]);
    let resolved =
        resolve(&mesh, &client(), OriginalDst("10.96.0.1:80".parse().unwrap()), &Choice::of(0)).unwrap();
    assert_eq!(resolved.pick.unwrap().endpoint.as_str(), "proxy");
    assert_eq!(tunnel(&mesh, "10.96.0.1:80", 0).gateway.to_string(), "10.0.0.9:15008");
}

#[test]
fn an_endpoint_of_the_host_network_is_reached_in_plaintext() {
    let mut host = endpoint("host", "10.0.0.4", WEB);
    host.network_mode = NetworkMode::HostNetwork;
    let mesh = mesh([host], [service(WEB, &["/10.96.0.1"], &[(80, 8080)])]);
    let route = passthrough(&mesh, "10.96.0.1:80");
    assert_eq!(
        (route.target.to_string().as_str(), route.destination.unwrap().name.as_str()),
        ("10.0.0.4:8080", "host")
    );
}
