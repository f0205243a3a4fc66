//! Against an xDS server that shares no code with the daemon: Envoy's messages, Google's gRPC and protobuf.

use std::time::Instant;

use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    prost::Message,
    workload::{Address, Workload, address::Type},
};
use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan,
    control_plane::{Independent, Known},
    eventually,
    server::{Behaviour, Server},
};

use super::{Duration, ask_there, denial, echo, sleep};
use crate::support::{FAMILIES, last_logged};

/// gRPC's own limit of what it receives.
const LIMIT: u64 = 4 << 20;

fn mesh() -> (Mesh, Independent) {
    let mut mesh = MeshPlan::new(&["client", "server"]).build().unwrap();
    let topology = mesh.topology();
    let mut control_plane =
        Independent::start(topology.outside_ips()[0], &topology.outside, mesh.directory()).unwrap();
    control_plane.tell_mesh(&mesh.state()).unwrap();
    ask_there(&mut mesh, control_plane.address(), control_plane.root_pem(), &json!({}));
    (mesh, control_plane)
}

fn requests(control_plane: &Independent) -> Vec<Value> {
    control_plane.told().into_iter().filter(|event| !event["type"].is_null()).collect()
}

fn workload(mesh: &Mesh, node: usize, uid: &str) -> Option<Value> {
    let dump = mesh.daemon(node).admin("/config_dump").unwrap();
    dump["workloads"].as_array().unwrap().iter().find(|workload| workload["uid"] == uid).cloned()
}

#[track_caller]
fn assert_no_violation(control_plane: &Independent) {
    let told = control_plane.told();
    let violations: Vec<_> = told.iter().filter(|event| !event["violation"].is_null()).collect();
    assert!(violations.is_empty(), "{violations:?}");
}

/// Catches: a client that only understands servers written with it: other encoders, other headers, other manners.
#[test]
fn an_independent_server_feeds_changes_and_is_refused_what_is_bad() {
    let (mut mesh, mut control_plane) = mesh();
    (1..=2).for_each(|node| mesh.start_daemon(node).unwrap());
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    for target in targets {
        echo(mesh.pod("client"), target).unwrap();
        let line = last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "it came through the mesh");
    }
    let uid = Mesh::uid("server");
    let renamed = json!({"workload": {"canonicalName": "renamed", "status": "UNHEALTHY"}});
    control_plane.merge(ADDRESS_TYPE, &uid, &renamed).unwrap();
    for node in [1, 2] {
        eventually("the update is in force", || {
            let workload = workload(&mesh, node, &uid)?;
            (workload["canonicalName"] == "renamed" && workload["status"] == "Unhealthy").then_some(())
        });
    }
    control_plane.put_all(&[Known::policy(&denial())]).unwrap();
    targets.iter().for_each(|&target| {
        eventually("the policy denies", || echo(mesh.pod("client"), target).is_err().then_some(()));
    });
    control_plane.remove(AUTHORIZATION_TYPE, "default/no-clients").unwrap();
    targets.iter().for_each(|&target| {
        eventually("the policy is gone", || echo(mesh.pod("client"), target).ok());
    });
    // An address of three bytes, beside a good change in the same response.
    let bad =
        json!({"workload": {"uid": "bad", "name": "bad", "namespace": "default", "addresses": ["AAAA"]}});
    control_plane.merge(ADDRESS_TYPE, "bad", &bad).unwrap();
    let refused = eventually("a NACK for the bad resource", || {
        requests(&control_plane).into_iter().find(|request| request["error"] != "")
    });
    assert!(refused["error"].as_str().unwrap().starts_with("bad: "), "{refused}");
    assert_eq!(refused["type"], ADDRESS_TYPE);
    control_plane.remove(ADDRESS_TYPE, &Mesh::uid("client")).unwrap();
    for node in [1, 2] {
        eventually("the removal is in force", || {
            workload(&mesh, node, &Mesh::uid("client")).is_none().then_some(())
        });
        assert!(workload(&mesh, node, &uid).is_some(), "others stay");
        assert!(workload(&mesh, node, "bad").is_none());
        assert_eq!(mesh.daemon(node).metric("ztunnel_xds_connected", &[]).unwrap(), 1.0);
    }
    assert_no_violation(&control_plane);
}

/// Catches: what is known from the stream before told in one request that gRPC servers refuse, forever.
#[test]
fn a_new_stream_s_first_request_stays_below_what_a_server_takes() {
    let (mut mesh, mut control_plane) = mesh();
    let many: Vec<Known> = (0..6000).map(|number| known(&format!("{number:0>900}"))).collect();
    control_plane.put_all(&many).unwrap();
    mesh.start_daemon(1).unwrap();
    let streams = |control_plane: &Independent| {
        requests(control_plane)
            .into_iter()
            .filter(|r| r["type"] == ADDRESS_TYPE && r["nonce"] == "")
            .collect::<Vec<_>>()
    };
    let before = streams(&control_plane).len();
    control_plane.end_streams().unwrap();
    let again = eventually("a stream with what is known", || streams(&control_plane).get(before).cloned());
    assert!(again["versions"].as_u64().unwrap() > 1000, "{again}");
    assert!(again["bytes"].as_u64().unwrap() < LIMIT, "{again}");
    control_plane.put_all(&[known("one-more")]).unwrap();
    eventually("that stream works", || workload(&mesh, 1, "one-more"));
    assert_eq!(streams(&control_plane).len(), before + 1, "the stream broke");
    assert_no_violation(&control_plane);
}

/// Catches: what had no room in a new stream's first request, is gone, and stays for ever; a client whose PINGs a server of
/// gRPC takes for an attack, and that is sent away whenever the mesh is quiet.
#[test]
fn what_is_gone_goes_however_much_is_known_and_a_quiet_stream_stays() {
    const COUNT: usize = 6000;
    let (mut mesh, mut control_plane) = mesh();
    let names: Vec<String> = (0..COUNT).map(|number| format!("{number:0>900}")).collect();
    control_plane.put_all(&names.iter().map(|name| known(name)).collect::<Vec<_>>()).unwrap();
    mesh.start_daemon(1).unwrap();
    let workloads =
        |mesh: &Mesh| mesh.daemon(1).metric("ztunnel_xds_objects", &[("kind", "workloads")]).unwrap();
    let own = 2.0;
    assert_eq!(workloads(&mesh), own + COUNT as f64);
    control_plane.end_streams().unwrap();
    control_plane.lose_all(ADDRESS_TYPE, &names[COUNT / 2..]).unwrap();
    let opened = |control_plane: &Independent| {
        control_plane.told().into_iter().filter(|event| event["opened"] == true).count()
    };
    eventually("another stream", || (opened(&control_plane) == 2).then_some(()));
    let began = Instant::now();
    while workloads(&mesh) != own + (COUNT / 2) as f64 {
        assert!(began.elapsed() < Duration::from_secs(100), "{} workloads", workloads(&mesh));
        sleep(Duration::from_millis(500));
    }
    // Longer than three PINGs would take that come too soon.
    sleep(Duration::from_secs(100).saturating_sub(began.elapsed()));
    assert_eq!(opened(&control_plane), 2, "it was sent away");
    assert_eq!(mesh.daemon(1).metric("ztunnel_xds_failures_total", &[]).unwrap(), 0.0);
    assert_no_violation(&control_plane);
}

fn known(uid: &str) -> Known {
    let workload = Workload {
        uid: uid.to_owned(),
        name: "one".to_owned(),
        namespace: "default".to_owned(),
        ..Workload::default()
    };
    Known::address(uid, vec![], Address { r#type: Some(Type::Workload(workload)) }.encode_to_vec())
}
