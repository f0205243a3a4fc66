//! Connections that are older than their pod's enrolment: they go on as they are, and the mesh says that they do.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use serde_json::Value;
use testkit::{
    Daemon, Mesh, MeshPlan,
    capture::{Capture, Keep},
    eventually,
    server::{Behaviour, Server},
};

use crate::{held::Held, support::FAMILIES};

const GAUGE: &str = "ztunnel_plaintext_connections_before_enrolment";

/// Client and destination of each older connection that the daemon lists, in order.
fn listed(daemon: &Daemon) -> Vec<(SocketAddr, SocketAddr)> {
    let address = |connection: &Value, end: &str| connection[end].as_str().unwrap().parse().unwrap();
    let connections = daemon.connections().unwrap();
    let older = connections.iter().filter(|connection| connection["path"] == "plaintext_before_enrolment");
    let mut ends: Vec<_> = older.map(|c| (address(c, "client"), address(c, "originalDestination"))).collect();
    ends.sort_unstable();
    ends
}

fn counted(daemon: &Daemon, pod: &str) -> f64 {
    daemon.metric(GAUGE, &[("workload", &Mesh::uid(pod))]).unwrap()
}

fn sorted(mut ends: Vec<(SocketAddr, SocketAddr)>) -> Vec<(SocketAddr, SocketAddr)> {
    ends.sort_unstable();
    ends
}

struct World {
    mesh: Mesh,
    _servers: [Server; 3],
}

/// Two pods, and servers in both and outside; no daemon yet.
fn world() -> World {
    let plan = MeshPlan::new(&["pod", "peer"]).setting("inspectionInterval", "200ms");
    let mesh = plan.setting("drainDeadline", "60s").build().unwrap();
    let places = [&mesh.pod("pod").place, &mesh.pod("peer").place, &mesh.topology().outside];
    let _servers = places.map(|place| Server::start(place, 8080, Behaviour::Echo).unwrap());
    World { mesh, _servers }
}

/// From the pod to a peer, from the peer to it, out of the mesh and into it, over both families.
fn connections(mesh: &Mesh) -> Vec<Held> {
    let outside = &mesh.topology().outside;
    let of = |family: usize| {
        let out = SocketAddr::new(mesh.topology().outside_ips()[family], 8080);
        [
            Held::open(mesh.pod("pod"), mesh.address("peer", family, 8080)),
            Held::open(mesh.pod("peer"), mesh.address("pod", family, 8080)),
            Held::open(mesh.pod("pod"), out),
            Held::open(outside, mesh.address("pod", family, 8080)),
        ]
    };
    FAMILIES.into_iter().flat_map(of).collect()
}

/// Catches: an enrolment that breaks what was there before, or hides that it is still in plaintext.
#[test]
fn older_connections_go_on_and_are_listed_and_counted() {
    let World { mut mesh, _servers } = world();
    let mut held = connections(&mesh);
    let of_pod = sorted(held.iter().map(Held::ends).collect());
    let of_peer = held.iter().map(Held::ends).filter(|(client, destination)| {
        mesh.pod("peer").ips().iter().any(|ip| *ip == client.ip() || *ip == destination.ip())
    });
    let of_peer = sorted(of_peer.collect());
    mesh.start_daemon(1).unwrap();
    mesh.start_daemon(2).unwrap();
    let newer = connections(&mesh);
    for (node, pod, expected) in [(1, "pod", of_pod), (2, "peer", of_peer)] {
        assert_eq!(listed(mesh.daemon(node)), expected);
        assert_eq!(counted(mesh.daemon(node), pod), expected.len() as f64);
    }
    let capture = Capture::start(mesh.pod("pod"), "eth0", Keep::Everything).unwrap();
    held.iter_mut().for_each(|held| held.still_works(b"as ever, in clear"));
    let recording = capture.stop().unwrap();
    assert!(recording.contains(b"as ever, in clear"), "it is as plaintext as it is said to be");
    assert_eq!(mesh.daemon(1).verdict("reroute_refused").unwrap(), 0);
    held.truncate(1);
    eventually("those that have ended are no longer counted", || {
        (counted(mesh.daemon(1), "pod") == 1.0 && listed(mesh.daemon(1)) == [held[0].ends()]).then_some(())
    });
    held.clear();
    eventually("the last is gone", || (counted(mesh.daemon(1), "pod") == 0.0).then_some(()));
    assert!(listed(mesh.daemon(1)).is_empty() && !newer.is_empty());
}

/// Catches: a daemon that takes its predecessor's connections for plaintext of the pod, or forgets what really is.
#[test]
fn a_second_daemon_tells_the_mesh_from_what_is_older() {
    let World { mut mesh, _servers } = world();
    let held = connections(&mesh);
    let before = sorted(held.iter().map(Held::ends).collect());
    mesh.start_daemon(1).unwrap();
    mesh.start_daemon(2).unwrap();
    let mut newer = connections(&mesh);
    let second = mesh.launch_beside(1).unwrap();
    second.wait_until_ready().unwrap();
    assert_eq!(listed(&second), before, "and none of the first daemon's");
    sleep(Duration::from_millis(500));
    assert_eq!(listed(&second), before, "also when it has looked again");
    newer.iter_mut().for_each(|held| held.still_works(b"through the first daemon"));
    let first = mesh.take_daemon(1).unwrap();
    mesh.put_daemon(1, second);
    first.kill().unwrap();
    mesh.take_daemon(1).unwrap().kill().unwrap();
    drop(newer);
    mesh.start_daemon(1).unwrap();
    assert_eq!(listed(mesh.daemon(1)), before, "after a crash");
}
