//! Where connections go, and that applications notice nothing of it.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde_json::json;
use testkit::{
    Mesh, MeshPlan, Place,
    capture::{Capture, Keep},
    client::Dial,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, assert_encrypted, last_logged, logged};

const MARKER: &[u8] = b"the payload that nobody else may read";

/// What a Report server says, and the client's own view of its socket.
struct Seen {
    by_server: String,
    client: SocketAddr,
    peer: SocketAddr,
}

fn ask(from: &Place, dial: Dial) -> Seen {
    from.run(move || {
        let mut stream = dial.connect().expect("connecting");
        let (client, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let mut by_server = String::new();
        stream.read_to_string(&mut by_server).expect("reading the answer");
        Seen { by_server, client, peer }
    })
}

fn echo(from: &Place, dial: Dial) {
    assert_eq!(from.run(move || dial.exchange(MARKER)).expect("an echo through the mesh"), MARKER);
}

/// Catches: plaintext between nodes, a wrong identity, a destination or source that the mesh changed, a port that
/// would need configuration.
#[test]
fn mesh_to_mesh_across_nodes_is_encrypted_and_looks_untouched() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    for port in [8080, 80, 39_999] {
        let _server = Server::start(mesh.pod("server"), port, Behaviour::Report).unwrap();
        for family in FAMILIES {
            let target = mesh.address("server", family, port);
            let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
            let seen = ask(client, Dial::to(target));
            let marker = seen.by_server.clone();
            assert_eq!((seen.peer, seen.client.ip()), (target, client.ips()[family]));
            let by_server: Vec<SocketAddr> =
                seen.by_server.split_whitespace().map(|a| a.parse().unwrap()).collect();
            assert_eq!((by_server[0].ip(), by_server[1]), (client.ips()[family], target));
            let lines =
                [(1, "outbound"), (2, "inbound")].map(|(n, d)| last_logged(mesh.daemon(n), d, target));
            for line in lines {
                assert_eq!(line["path"], "hbone", "{line}");
                assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "{line}");
                assert_eq!(line["dst.identity"], Mesh::identity("server").as_str(), "{line}");
            }
            let recording = capture.stop().unwrap();
            // A pooled tunnel has no beginning to look at: only the first connection of each family must show one.
            if port == 8080 {
                assert_encrypted(&recording, &client.ips(), marker.as_bytes());
            }
            assert!(!recording.contains(marker.as_bytes()));
        }
    }
}

/// Catches: a kind of socket that the hooks miss.
#[test]
fn no_kind_of_socket_passes_by_the_mesh() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    let server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, server.port());
        let dial = Dial::to(target);
        echo(client, dial.clone());
        echo(client, dial.clone().mapped());
        echo(client, dial.clone().from(SocketAddr::new(client.ips()[family], 0)));
        echo(client, dial.clone().mptcp());
        let answer = client.run(move || {
            let mut stream = dial.connect_with_data(MARKER).expect("TCP Fast Open");
            let mut answer = vec![0; MARKER.len()];
            stream.read_exact(&mut answer).map(|()| answer)
        });
        assert_eq!(answer.unwrap(), MARKER);
        testkit::eventually("all five are logged", || {
            (logged(mesh.daemon(1), "outbound", target).len() == 5).then_some(())
        });
        assert!(logged(mesh.daemon(1), "outbound", target).iter().all(|line| line["path"] == "hbone"));
    }
    assert_encrypted(&capture.stop().unwrap(), &client.ips(), MARKER);
}

/// Catches: traffic on one node that stays in clear, or that one program instance mistakes for another pod's.
#[test]
fn mesh_to_mesh_on_one_node_is_encrypted_too() {
    let mesh = Mesh::start(&["client server"]).unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let echo_server = Server::start(server, 8080, Behaviour::Echo).unwrap();
    let capture = Capture::start(client, "eth0", Keep::Everything).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        echo(client, Dial::to(target));
        for direction in ["outbound", "inbound"] {
            let line = last_logged(mesh.daemon(1), direction, target);
            assert_eq!((&line["path"], &line["src.workload"]), (&json!("hbone"), &json!("client")), "{line}");
        }
        assert_eq!(echo_server.clients()[family].ip(), client.ips()[family]);
    }
    assert_encrypted(&capture.stop().unwrap(), &client.ips(), MARKER);
}

/// Catches: a mesh that cannot talk to the rest of the world, or hides who talks.
#[test]
fn outside_is_reached_and_reaches_in_as_plaintext() {
    let mesh = Mesh::start(&["client"]).unwrap();
    let (client, outside) = (mesh.pod("client"), &mesh.topology().outside);
    let there = Server::start(outside, 8080, Behaviour::Echo).unwrap();
    let here = Server::start(client, 9090, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let outside_ip = mesh.topology().outside_ips()[family];
        let target = SocketAddr::new(outside_ip, 8080);
        echo(client, Dial::to(target));
        assert_eq!(last_logged(mesh.daemon(1), "outbound", target)["path"], "passthrough");
        assert_eq!(there.clients()[family].ip(), client.ips()[family]);

        let target = mesh.address("client", family, 9090);
        echo(outside, Dial::to(target));
        assert_eq!(last_logged(mesh.daemon(1), "inbound", target)["path"], "plaintext");
        assert_eq!(here.clients()[family].ip(), outside_ip);
    }
}

/// Catches: a pod that loses itself: its own address, its loopback, the unspecified address, its own service.
#[test]
fn a_pod_reaches_itself() {
    let service = json!({
        "name": "own", "namespace": "default", "hostname": "own.default.svc.cluster.local",
        "vips": ["/10.96.0.10", "/fd96::10"], "ports": { "80": 8080 },
        "endpoints": { "own": { "workloadUid": Mesh::uid("client"), "port": { "80": 8080 } } }
    });
    let mesh = MeshPlan::new(&["client"]).service(service).start().unwrap();
    let client = mesh.pod("client");
    let _server = Server::start(client, 8080, Behaviour::Echo).unwrap();
    let v4: [IpAddr; 3] = [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into(), client.ipv4.into()];
    let v6: [IpAddr; 3] = [Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into(), client.ipv6.into()];
    for ip in v4.into_iter().chain(v6) {
        echo(client, Dial::to(SocketAddr::new(ip, 8080)));
    }
    let logged = mesh.daemon(1).access_log().unwrap();
    assert!(logged.is_empty(), "none of these is the mesh's business: {logged:?}");
    for vip in ["10.96.0.10", "fd96::10"] {
        echo(client, Dial::to(SocketAddr::new(vip.parse().unwrap(), 80)));
    }
}

/// Catches: a service whose address leads nowhere, to a wrong port, or in clear.
#[test]
fn a_service_leads_to_its_endpoints_through_the_mesh() {
    let service = json!({
        "name": "web", "namespace": "default", "hostname": "web.default.svc.cluster.local",
        "vips": ["/10.96.0.20", "/fd96::20"], "ports": { "80": 8080 },
        "endpoints": { "web": { "workloadUid": Mesh::uid("server"), "port": { "80": 8080 } } }
    });
    let mesh = MeshPlan::new(&["client", "server"]).service(service).start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for (family, vip) in ["10.96.0.20", "fd96::20"].into_iter().enumerate() {
        echo(mesh.pod("client"), Dial::to(SocketAddr::new(vip.parse().unwrap(), 80)));
        let line = last_logged(mesh.daemon(1), "outbound", mesh.address("server", family, 8080));
        assert_eq!(
            (&line["path"], &line["dst.service"]),
            (&json!("hbone"), &json!("web.default.svc.cluster.local"))
        );
    }
}
