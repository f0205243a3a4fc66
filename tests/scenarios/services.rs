//! What an address of a service means, and who of those behind it is chosen.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, last_logged};

/// Of every service here, by family.
pub(crate) const VIPS: [&str; 2] = ["10.96.7.1", "fd96:7::1"];
pub(crate) const PORT: u16 = 8080;

pub(crate) fn vip(family: usize) -> SocketAddr {
    at(VIPS[family], 80)
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Behind the [`VIPS`], on port 80.
pub(crate) fn service(namespace: &str, name: &str, endpoints: &[&str]) -> Value {
    let endpoints: BTreeMap<&str, Value> =
        endpoints.iter().map(|&name| (name, json!({ "workloadUid": Mesh::uid(name) }))).collect();
    json!({
        "name": name, "namespace": namespace, "hostname": format!("{name}.{namespace}.example"),
        "vips": VIPS.map(|vip| format!("/{vip}")), "ports": { "80": PORT }, "endpoints": endpoints,
    })
}

pub(crate) fn with(mut service: Value, field: &str, value: impl Into<Value>) -> Value {
    service[field] = value.into();
    service
}

/// Servers that say who they are.
pub(crate) fn report(mesh: &Mesh, pods: &[&str]) -> Vec<Server> {
    pods.iter().map(|pod| Server::start(mesh.pod(pod), PORT, Behaviour::Report).unwrap()).collect()
}

/// The address at which a server was reached, or how it failed.
pub(crate) fn who_answers(from: &Place, target: SocketAddr) -> Result<IpAddr, ErrorKind> {
    let dial = Dial::to(target).patience(std::time::Duration::from_secs(20));
    let answer = from.run(move || dial.read_all()).map_err(|error| error.kind())?;
    let answer = String::from_utf8(answer).unwrap();
    let own = answer.split_whitespace().nth(1).expect("the server says both ends");
    Ok(own.parse::<SocketAddr>().unwrap().ip())
}

/// The reason that the daemon logged for a connection that never came to have a destination.
pub(crate) fn reason(mesh: &Mesh, target: SocketAddr) -> Value {
    last_logged(mesh.daemon(1), "outbound", target)["reason"].clone()
}

/// Catches: a client of one namespace that is sent to the service of another; a service that is private and is reached.
#[test]
fn one_address_means_to_each_namespace_its_own_service() {
    let hidden = with(service("secret", "web", &["three"]), "visibility", "Namespace");
    let mesh = MeshPlan::new(&["client shopper", "one two three"])
        .pod("shopper", |pod| pod.says("namespace", "shop"))
        .service(with(service("zoo", "web", &["one"]), "canonical", true))
        .service(service("shop", "web", &["two"]))
        .service(hidden)
        .start()
        .unwrap();
    let _servers = report(&mesh, &["one", "two", "three"]);
    for family in FAMILIES {
        for (client, server) in [("client", "one"), ("shopper", "two")] {
            for _ in 0..4 {
                let answered = who_answers(mesh.pod(client), vip(family));
                assert_eq!(answered, Ok(mesh.pod(server).ips()[family]), "{client} over {}", VIPS[family]);
            }
        }
    }
}

/// Catches: a block of addresses that is not known, or that swallows an address of somebody in it.
#[test]
fn a_block_of_addresses_leads_to_its_service_and_a_pod_in_it_to_itself() {
    let blocks = json!(["/10.97.0.0/16", "/fd97::/64", "/10.1.0.0/16", "/fd01::/32"]);
    let mesh = MeshPlan::new(&["client", "one two"])
        .service(with(service("default", "web", &["one"]), "vips", blocks))
        .start()
        .unwrap();
    let _servers = report(&mesh, &["one", "two"]);
    let own = Server::start(mesh.pod("two"), 80, Behaviour::Report).unwrap();
    for (family, in_block) in ["10.97.3.4", "fd97::3:4"].into_iter().enumerate() {
        let answered = who_answers(mesh.pod("client"), at(in_block, 80));
        assert_eq!(answered, Ok(mesh.pod("one").ips()[family]));
        let direct = mesh.address("two", family, own.port());
        assert_eq!(who_answers(mesh.pod("client"), direct), Ok(direct.ip()));
    }
}

/// Catches: a weight that counts for nothing. Three of four, give or take five standard deviations.
#[test]
fn endpoints_are_chosen_by_their_capacity() {
    const ROUNDS: usize = 160;
    let mesh = MeshPlan::new(&["client", "heavy light idle"])
        .pod("heavy", |pod| pod.says("capacity", 3))
        .pod("idle", |pod| pod.says("capacity", 0))
        .service(service("default", "web", &["heavy", "light", "idle"]))
        .start()
        .unwrap();
    let servers = report(&mesh, &["heavy", "light", "idle"]);
    for round in 0..ROUNDS {
        who_answers(mesh.pod("client"), vip(round % 2)).unwrap();
    }
    let counts: Vec<usize> = servers.iter().map(Server::accepted).collect();
    assert_eq!((counts[0] + counts[1], counts[2]), (ROUNDS, 0));
    assert!((93..=147).contains(&counts[0]), "{counts:?}");
}

/// Catches: traffic that leaves its zone while the zone has endpoints; an outage where it must not stay within it; a
/// strict service that leaves it all the same.
#[test]
fn near_endpoints_are_preferred_and_strict_means_strict() {
    let prefer = |mode| json!({ "routingPreferences": ["Region", "Zone"], "mode": mode });
    let zone = |zone: &str| json!({ "region": "r", "zone": zone });
    let service = |mode| with(service("default", "web", &["near", "far"]), "loadBalancer", prefer(mode));
    let mut mesh = MeshPlan::new(&["client", "near far"])
        .pod("client", |pod| pod.says("locality", zone("a")))
        .pod("near", |pod| pod.says("locality", zone("a")))
        .pod("far", |pod| pod.says("locality", zone("b")))
        .service(service("Failover"))
        .start()
        .unwrap();
    let _servers = report(&mesh, &["near", "far"]);
    let expect = |mesh: &Mesh, server: &str| {
        for family in FAMILIES {
            let expected = Ok(mesh.pod(server).ips()[family]);
            for _ in 0..6 {
                assert_eq!(who_answers(mesh.pod("client"), vip(family)), expected);
            }
        }
    };
    expect(&mesh, "near");
    mesh.change(|plan| plan.pods.entry("near".into()).or_default().says("status", "Unhealthy")).unwrap();
    wait_for_change(&mesh, "near", "Unhealthy");
    expect(&mesh, "far");
    mesh.change(|plan| plan.services = vec![service("Strict")]).unwrap();
    for family in FAMILIES {
        eventually("a strict service fails without a near endpoint", || {
            who_answers(mesh.pod("client"), vip(family)).is_err().then_some(())
        });
        assert_eq!(reason(&mesh, vip(family)), "no_endpoint_in_scope");
    }
}

/// Until the client's daemon knows what the state says of a pod.
fn wait_for_change(mesh: &Mesh, pod: &str, status: &str) {
    eventually("the daemon reads the new state", || {
        let dump = mesh.daemon(1).admin("/config_dump").unwrap();
        let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
        workloads.iter().any(|w| w["uid"] == Mesh::uid(pod) && w["status"] == status).then_some(())
    });
}

/// Catches: a client that hangs, or gets a proper end, where there is nobody; and a choice where none is wanted.
#[test]
fn nobody_behind_an_address_is_said_at_once_and_passthrough_chooses_nobody() {
    let passthrough = json!({
        "name": "world", "namespace": "default", "hostname": "world.example", "ports": {},
        "vips": ["/10.0.0.0/24", "/fd00::/64"], "loadBalancer": { "mode": "Passthrough" },
    });
    let mesh = MeshPlan::new(&["client"])
        .service(service("default", "empty", &[]))
        .service(passthrough)
        .start()
        .unwrap();
    let _outside = Server::start(&mesh.topology().outside, PORT, Behaviour::Report).unwrap();
    for family in FAMILIES {
        let started = std::time::Instant::now();
        assert_eq!(who_answers(mesh.pod("client"), vip(family)), Err(ErrorKind::ConnectionReset));
        assert!(started.elapsed().as_secs() < 5, "it took {:?}", started.elapsed());
        assert_eq!(reason(&mesh, vip(family)), "no_healthy_endpoint");

        let outside = SocketAddr::new(mesh.topology().outside_ips()[family], PORT);
        assert_eq!(who_answers(mesh.pod("client"), outside), Ok(outside.ip()));
        let line = last_logged(mesh.daemon(1), "outbound", outside);
        assert_eq!((&line["path"], &line["dst.service"]), (&json!("passthrough"), &json!("world.example")));
    }
}
