//! Behind a CNI that redirects pods by rules of netfilter and names them over ZDS, as istio-cni does.

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use serde_json::Value;
use testkit::{
    Mesh, MeshPlan, Place,
    capture::{Capture, Keep},
    client::Dial,
    cni::{CniAgent, redirect},
    eventually,
    rate::Rate,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    privileges::Started,
    support::{FAMILIES, assert_encrypted, last_logged},
};

const MARKER: &[u8] = b"the payload that nobody else may read";

/// Agents go after the mesh, as a node's CNI outlives a daemon.
struct Cluster {
    mesh: Mesh,
    agents: Vec<CniAgent>,
}

impl Cluster {
    fn start(plan: MeshPlan) -> Self {
        let mut mesh = plan.cni().build().unwrap();
        let nodes = mesh.topology().nodes.len();
        let mut agents = Vec::new();
        for node in 1..=nodes {
            let pods = mesh.cni_pods(node);
            pods.iter().for_each(|pod| redirect(mesh.pod(&pod.name)).unwrap());
            agents.push(CniAgent::start(&mesh.zds_socket(mesh.node(node)), pods).unwrap());
            mesh.start_daemon(node).unwrap();
        }
        Self { mesh, agents }
    }

    fn refusal(&self, pod: &str, target: SocketAddr) -> Value {
        let client = self.mesh.pod(pod).place.clone();
        assert!(client.run(move || Dial::to(target).exchange(MARKER)).is_err(), "it was let through");
        last_logged(self.mesh.daemon(1), "outbound", target)
    }
}

#[track_caller]
fn echo(from: &Place, target: SocketAddr) {
    assert_eq!(from.run(move || Dial::to(target).exchange(MARKER)).expect("an echo"), MARKER);
}

/// Catches: a capability that the chart does not give behind a CNI, and is needed there.
#[test]
fn two_capabilities_are_enough() {
    let started = Started::with(&["net_admin", "sys_admin"]);
    let plan = MeshPlan::new(&["client", "server"]).binary(started.script);
    let Cluster { mesh, .. } = Cluster::start(plan);
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        echo(mesh.pod("client"), target);
        assert_eq!(last_logged(mesh.daemon(1), "outbound", target)["path"], "hbone");
    }
}

/// Catches: plaintext between nodes, a lost original destination, a client's address that the application does not see,
/// answers of the application that pass us by, a loop of our own connections.
#[test]
fn pods_that_a_cni_redirects_are_in_the_mesh() {
    let Cluster { mesh, agents } = Cluster::start(MeshPlan::new(&["client neighbour", "server"]));
    assert_eq!(agents.iter().map(CniAgent::connections).collect::<Vec<_>>(), [1, 1]);
    let client = mesh.pod("client");
    let server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let _neighbour = Server::start(mesh.pod("neighbour"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
        echo(client, target);
        assert_encrypted(&capture.stop().unwrap(), &client.ips(), MARKER);
        let seen = server.clients().last().map(|client| client.ip().to_canonical());
        assert_eq!(seen, Some(client.ips()[family]), "the application sees the client itself");
        for (node, direction) in [(1, "outbound"), (2, "inbound")] {
            let line = last_logged(mesh.daemon(node), direction, target);
            assert_eq!(line["path"], "hbone", "{line}");
            assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "{line}");
            assert_eq!(line["dst.identity"], Mesh::identity("server").as_str(), "{line}");
        }
        let neighbour = mesh.address("neighbour", family, 8080);
        echo(client, neighbour);
        assert_eq!(last_logged(mesh.daemon(1), "outbound", neighbour)["path"], "hbone");
        echo(mesh.pod("server"), target);
    }
}

/// Catches: what is outside of the mesh out of reach, and plaintext from there past policy.
#[test]
fn the_outside_is_reached_and_comes_in_as_plaintext() {
    let Cluster { mesh, .. } = Cluster::start(MeshPlan::new(&["client", "server"]));
    let outside = &mesh.topology().outside;
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let _beyond = Server::start(outside, 9090, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        echo(outside, target);
        assert_eq!(last_logged(mesh.daemon(2), "inbound", target)["path"], "plaintext");
        let beyond = SocketAddr::new(outside_ip(&mesh, family), 9090);
        echo(mesh.pod("client"), beyond);
        assert_eq!(last_logged(mesh.daemon(1), "outbound", beyond)["path"], "passthrough");
        // Straight to a listener of ours: not served, and no loop.
        for port in [15001, 15006] {
            let own = SocketAddr::new(mesh.pod("client").ips()[family], port);
            let refused = mesh.pod("client").run(move || Dial::to(own).exchange(MARKER));
            assert!(refused.is_err(), "port {port} answered");
        }
    }
}

/// Catches: a pod that cannot be served and holds up the others, is never tried again, or ends the daemon; and one that
/// goes and is served on.
#[test]
fn pods_come_and_go_and_a_bad_one_is_told_and_tried_again() {
    let Cluster { mut mesh, agents } = Cluster::start(MeshPlan::new(&["client", "server"]));
    mesh.add_pod(2, "late").unwrap();
    mesh.add_pod(2, "taken").unwrap();
    let agent = &agents[1];
    let not_a_namespace = testkit::cni::CniPod { netns: "/dev/null".into(), ..mesh.cni_pod("late") };
    assert!(agent.add(&not_a_namespace).unwrap().expect("a refusal").contains("not a namespace"));
    let squatter = Server::start(mesh.pod("taken"), 15008, Behaviour::Echo).unwrap();
    let refusal = agent.add(&mesh.cni_pod("taken")).unwrap().expect("a refusal");
    assert!(refusal.contains("15008") && refusal.contains("in use"), "{refusal}");
    for pod in ["late", "taken"] {
        redirect(mesh.pod(pod)).unwrap();
    }
    assert_eq!(agent.add(&mesh.cni_pod("late")).unwrap(), None);
    let _late = Server::start(mesh.pod("late"), 8080, Behaviour::Echo).unwrap();
    let target = mesh.address("late", 0, 8080);
    let client = mesh.pod("client").place.clone();
    eventually("both nodes know the pod", || client.run(move || Dial::to(target).exchange(MARKER)).ok());
    eventually("it came through the tunnel", || {
        (last_logged(mesh.daemon(2), "inbound", target)["path"] == "hbone").then_some(())
    });
    drop(squatter);
    eventually("the pod is served once its port is free", || {
        mesh.daemon(2).serves(&Mesh::uid("taken")).then_some(())
    });
    agent.remove("uid-late").unwrap();
    eventually("the pod is let go", || (!mesh.daemon(2).serves(&Mesh::uid("late"))).then_some(()));
    assert!(mesh.daemon(2).serves(&Mesh::uid("server")));
}

/// Catches: connections that end because the agent was restarted, and pods deleted meanwhile that are served on.
#[test]
fn the_agent_may_be_restarted() {
    let Cluster { mesh, mut agents } = Cluster::start(MeshPlan::new(&["client leaver", "server"]));
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client").place.clone();
    let mut held = FAMILIES.map(|family| Held::open(&client, mesh.address("server", family, 8080)));
    drop(agents.remove(0));
    eventually("the loss is told", || {
        (mesh.daemon(1).metric("ztunnel_cni_agent_connected", &[]).unwrap() == 0.0).then_some(())
    });
    assert!(mesh.daemon(1).is_ready(), "what is known goes on");
    echo(&client, mesh.address("server", 0, 8080));
    let mut pods = mesh.cni_pods(1);
    pods.retain(|pod| pod.name != "leaver");
    let again = CniAgent::start(&mesh.zds_socket(mesh.node(1)), pods).unwrap();
    eventually("the daemon comes back", || (again.connections() == 1).then_some(()));
    assert_eq!(again.refusals(), Vec::<String>::new());
    eventually("who was not named is let go", || {
        (!mesh.daemon(1).serves(&Mesh::uid("leaver"))).then_some(())
    });
    held.iter_mut().for_each(|held| held.still_works(MARKER));
}

/// Catches: connections that fail or end while a newer daemon takes over from an older one.
#[test]
fn a_newer_daemon_takes_over_without_a_failed_connection() {
    let Cluster { mut mesh, agents } = Cluster::start(MeshPlan::new(&["client", "server"]));
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client").place.clone();
    for node in [1, 2] {
        let mut held = FAMILIES.map(|family| Held::open(&client, mesh.address("server", family, 8080)));
        let rates = FAMILIES.map(|family| Rate::start(&client, mesh.address("server", family, 8080), 100));
        let newer = mesh.launch_beside(node).unwrap();
        newer.wait_until_ready().unwrap();
        assert_eq!(agents[node - 1].connections(), 2);
        let mut older = mesh.take_daemon(node).unwrap();
        older.terminate().unwrap();
        mesh.put_daemon(node, newer);
        std::thread::sleep(Duration::from_secs(1));
        for rate in rates {
            let outcomes = rate.stop().unwrap();
            assert_eq!(outcomes.failed(), 0, "handing node {node} over: {outcomes:?}");
            assert!(outcomes.answered > 50, "{outcomes:?}");
        }
        held.iter_mut().for_each(|held| held.still_works(MARKER));
        drop(held);
        assert!(older.wait(Duration::from_secs(30)).unwrap().success());
    }
}

/// Catches: a pod that was made anew under its old name, and gets the identity that the old one had.
#[test]
fn a_pod_gets_no_identity_of_another_service_account() {
    let Cluster { mut mesh, agents } = Cluster::start(MeshPlan::new(&["client", "server"]));
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    mesh.add_pod(1, "anew").unwrap();
    redirect(mesh.pod("anew")).unwrap();
    let other = testkit::cni::CniPod { service_account: "somebody-else".to_owned(), ..mesh.cni_pod("anew") };
    assert_eq!(agents[0].add(&other).unwrap(), None);
    let cluster = Cluster { mesh, agents };
    let target = cluster.mesh.address("server", 0, 8080);
    eventually("the pod is known, under another account", || {
        let line = cluster.refusal("anew", target);
        (line["reason"] == "wrong_service_account").then_some(())
    });
}

fn outside_ip(mesh: &Mesh, family: usize) -> IpAddr {
    mesh.topology().outside_ips()[family]
}
