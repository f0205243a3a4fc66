//! Endpoints that fail, and endpoints of unusual kinds.

use super::*;
use crate::outlier::Outliers;

fn named(name: &str, hostname: &str) -> Workload {
    let mut workload = workload(name, &[], Protocol::Tcp);
    workload.hostname = hostname.into();
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

    let outside = way.at(&mesh, &client(), "192.0.2.1".parse().unwrap()).unwrap();
    let Route::Passthrough(outside) = outside else { panic!("{outside:?}") };
    assert_eq!(
        (outside.target.to_string().as_str(), &*outside.destination.unwrap().name),
        ("192.0.2.1:8080", "ext")
    );
    let inside = way.at(&mesh, &client(), "10.0.0.7".parse().unwrap()).unwrap();
    assert!(matches!(inside, Route::Tunnel(route) if &*route.destination.name == "server"));
}

/// Would break if an answer of DNS led in plaintext to an address behind which the mesh's own workloads may be, past their
/// mutual TLS and their waypoint.
#[test]
fn a_host_name_that_leads_to_a_service_leads_nowhere() {
    const OTHER: &str = "default/other.default.svc.cluster.local";
    let web = || service(WEB, &["/10.96.0.1", "/203.0.113.0/24"], &[(80, 8080)]);
    let other = || service(OTHER, &["/10.96.0.10", "/198.51.100.0/24"], &[(80, 8080)]);
    let server = workload("server", &["198.51.100.7"], Protocol::Hbone);
    let outsiders = mesh([named("ext", "ext.example"), server], [web(), other()]);
    let resolved =
        resolve(&outsiders, &client(), OriginalDst("10.96.0.1:80".parse().unwrap()), &Choice::of(0)).unwrap();
    let Way::ByName(way) = resolved.way else { panic!("{resolved:?}") };
    let at = |mesh: &Snapshot, ip: &str| match way.at(mesh, &client(), ip.parse().unwrap()) {
        Ok(Route::Tunnel(_)) => "tunnel",
        Ok(Route::Passthrough(_)) => "plaintext",
        Err(refusal) => refusal.reason(),
    };
    for ip in ["10.96.0.10", "198.51.100.1"] {
        assert_eq!(at(&outsiders, ip), "unusable_host_name", "{ip}");
    }
    assert_eq!(at(&outsiders, "198.51.100.7"), "tunnel", "a workload's own address goes before a block");
    assert_eq!(at(&outsiders, "203.0.113.9"), "plaintext", "in the block of its own service of outsiders");
    let mixed = mesh([named("ext", "ext.example"), endpoint("inside", "10.0.0.9", WEB)], [web()]);
    for ip in ["10.96.0.1", "203.0.113.9"] {
        assert_eq!(at(&mixed, ip), "unusable_host_name", "{ip} of a service that the mesh serves too");
    }
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

#[test]
fn an_endpoint_of_the_host_network_is_reached_in_plaintext() {
    let mut host = endpoint("host", "10.0.0.4", WEB);
    host.network_mode = NetworkMode::HostNetwork;
    let mesh = mesh([host], [service(WEB, &["/10.96.0.1"], &[(80, 8080)])]);
    let route = passthrough(&mesh, "10.96.0.1:80");
    assert_eq!(
        (route.target.to_string().as_str(), &*route.destination.unwrap().name),
        ("10.0.0.4:8080", "host")
    );
}
