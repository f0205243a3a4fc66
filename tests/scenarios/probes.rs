//! The kubelet looks at pods from the node itself, and must see the pod and not the mesh. Nobody else gets that pass.

use std::net::SocketAddr;

use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, last_logged, logged};

fn echo(from: &Place, target: SocketAddr) -> std::io::Result<Vec<u8>> {
    from.run(move || Dial::to(target).exchange(b"are you well?"))
}

/// Catches: a probe that the mesh answers, counts or refuses, even where only mutual TLS is taken.
#[test]
fn a_kubelet_probe_reaches_even_a_strict_pod_untouched() {
    let plan = MeshPlan::new(&["pod strict"]).pod("strict", |pod| pod.strict = true);
    let mesh = plan.start().unwrap();
    let kubelet = &mesh.node(1).kubelet;
    for pod in ["pod", "strict"] {
        let server = Server::start(mesh.pod(pod), 8080, Behaviour::Echo).unwrap();
        for family in FAMILIES {
            let target = mesh.address(pod, family, 8080);
            assert_eq!(echo(kubelet, target).unwrap(), b"are you well?");
            assert_eq!(server.clients()[family].ip(), mesh.node(1).bridge_ips()[family]);
            assert!(logged(mesh.daemon(1), "inbound", target).is_empty(), "the mesh took the probe");
        }
    }
    assert_eq!(mesh.daemon(1).verdict("probe_passed").unwrap(), 4);
}

/// Catches: a probe that is told the port is open when the application has closed it, or waits for an answer.
#[test]
fn a_probe_of_a_closed_port_is_refused() {
    let mesh = Mesh::start(&["pod"]).unwrap();
    for family in FAMILIES {
        let error = echo(&mesh.node(1).kubelet, mesh.address("pod", family, 9)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// Catches: any process of the node, or the node's address itself, passing for the kubelet.
#[test]
fn others_on_the_node_go_through_the_daemon() {
    let plan = MeshPlan::new(&["pod strict neighbour"]).pod("strict", |pod| pod.strict = true);
    let mesh = plan.start().unwrap();
    let host_network_pod = mesh.node(1).host_network_pod("host-network-pod").unwrap();
    let server = Server::start(mesh.pod("pod"), 8080, Behaviour::Echo).unwrap();
    let strict = Server::start(mesh.pod("strict"), 8080, Behaviour::Echo).unwrap();
    for (round, from) in [&host_network_pod, &mesh.node(1).host].into_iter().enumerate() {
        for family in FAMILIES {
            let target = mesh.address("pod", family, 8080);
            assert_eq!(echo(from, target).unwrap(), b"are you well?");
            eventually("the daemon has carried it", || {
                let lines = logged(mesh.daemon(1), "inbound", target);
                (lines.len() == round + 1 && lines.iter().all(|line| line["path"] == "plaintext"))
                    .then_some(())
            });
            let target = mesh.address("strict", family, 8080);
            echo(from, target).expect_err("a strict pod took plaintext from the node");
            assert_eq!(last_logged(mesh.daemon(1), "inbound", target)["reason"], "plaintext_in_strict");
        }
    }
    assert_eq!((server.accepted(), strict.accepted()), (4, 0));
    assert_eq!(mesh.daemon(1).verdict("probe_passed").unwrap(), 0);
}

/// Catches: the kubelet's pass opening the tunnel's port, where an application could pose as a proxy.
#[test]
fn the_kubelet_has_no_pass_to_the_tunnels_port() {
    let mesh = Mesh::start(&["pod"]).unwrap();
    let imposter = Server::start(mesh.pod("pod"), 15008, Behaviour::Echo);
    for family in FAMILIES {
        echo(&mesh.node(1).kubelet, mesh.address("pod", family, 15008))
            .expect_err("something echoed on 15008");
    }
    if let Ok(imposter) = imposter {
        assert_eq!(imposter.accepted(), 0);
    }
    assert_eq!(mesh.daemon(1).verdict("probe_passed").unwrap(), 0);
}
