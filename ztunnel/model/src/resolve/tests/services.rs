//! What a service makes of a connection.

use std::sync::Arc;

use super::*;
use crate::{
    service::{IpFamilies, LoadBalancer, Mode, Scope, Visibility},
    workload::Health,
};

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
        assert_eq!(&*tunnel(&mesh, to, 0).destination.name, name, "{to}");
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
        (0..400).filter(|dice| &*tunnel(&mesh1, "10.96.0.1:80", *dice).destination.name == "heavy").count();
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
    Arc::make_mut(&mut other_zone.locality).zone = "other".into();
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
