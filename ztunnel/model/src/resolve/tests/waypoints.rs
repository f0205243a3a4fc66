//! What must pass a waypoint first.

use super::*;
use crate::workload::Waypoint;

pub(super) fn waypoint(destination: &str) -> Option<Waypoint> {
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
    server.waypoint = waypoint("/10.0.0.9").map(Box::new);
    let proxy = workload("proxy", &["10.0.0.9"], Protocol::Hbone);
    let known = mesh([server.clone(), proxy], []);
    let route = tunnel(&known, "10.0.0.2:80", 0);
    assert_eq!(
        (route.gateway, route.authority),
        ("10.0.0.9:15008".parse().unwrap(), "10.0.0.2:80".parse().unwrap())
    );
    assert_eq!(&*route.destination.name, "server");
    let refusal = go(&mesh([server], []), "10.0.0.2:80", 0).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownWaypoint("/10.0.0.9".into()));
}

#[test]
fn a_waypoint_in_another_network_is_refused_by_name() {
    let mut server = workload("server", &["10.0.0.2"], Protocol::Hbone);
    server.waypoint = waypoint("far/10.0.0.9").map(Box::new);
    let refusal = go(&mesh([server], []), "10.0.0.2:80", 0).unwrap_err();
    assert_eq!(refusal.reason(), "other_network_unsupported");
    assert!(refusal.to_string().contains("east-west gateways are not supported yet"), "{refusal}");
}

/// As in Istio, a name that is no service's may be a workload's own. Would break if one of another namespace could make itself
/// a waypoint by its name, or if the waypoint went through itself.
#[test]
fn a_waypoint_may_be_named_by_a_workload_s_own_host_name() {
    let mut web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    web.waypoint = waypoint("default/way.example");
    let named = |name: &str, ips: &[&str], namespace: &str| {
        let mut workload = workload(name, ips, Protocol::Hbone);
        (workload.hostname, workload.namespace) = ("way.example".into(), namespace.into());
        workload
    };
    let proxy = named("proxy", &["fd00::9", "10.0.0.9"], "default");
    let stranger = named("a-stranger", &["10.0.0.66"], "elsewhere");
    let one = endpoint("one", "10.0.0.2", WEB);
    let known = mesh([one.clone(), stranger.clone(), proxy.clone()], [web.clone()]);
    let route = tunnel(&known, "10.96.0.1:80", 0);
    assert_eq!(route.gateway, "10.0.0.9:15008".parse().unwrap(), "of the family that was asked for");
    assert_eq!(route.expected, std::slice::from_ref(&proxy.identity));
    let from_proxy = as_client(&known, &proxy, "10.96.0.1:80", 0).unwrap();
    let Route::Tunnel(direct) = from_proxy else { panic!("{from_proxy:?}") };
    assert_eq!(direct.authority, "10.0.0.2:8080".parse().unwrap(), "the waypoint itself must not loop");
    let unknown = Refusal::UnknownWaypoint("default/way.example".into());
    let nowhere = named("proxy", &[], "default");
    for others in [vec![one.clone(), stranger], vec![one.clone(), nowhere]] {
        assert_eq!(go(&mesh(others, [web.clone()]), "10.96.0.1:80", 0).unwrap_err(), unknown);
    }
    let way = service("default/way.example", &[], &[(15008, 15008)]);
    let both = mesh([one, proxy, endpoint("behind", "10.0.0.8", "default/way.example")], [web, way]);
    let gateway = tunnel(&both, "10.96.0.1:80", 0).gateway;
    assert_eq!(gateway, "10.0.0.8:15008".parse().unwrap(), "a service's name goes first");
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
