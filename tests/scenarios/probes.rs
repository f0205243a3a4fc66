//! The kubelet looks at pods from the node itself, and must see the pod and not the mesh. Nobody else gets that pass.

use std::{net::SocketAddr, time::Duration};

use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, last_logged, logged};

const HBONE: u16 = 15008;

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

/// Catches: probes of strict pods that are refused for ever once the kubelet was restarted, or was not there at the start.
#[test]
fn a_kubelet_that_is_restarted_is_known_again() {
    let plan = MeshPlan::new(&["strict"]).pod("strict", |pod| pod.strict = true);
    let mut mesh = plan.build().unwrap();
    // As systemd does it: the cgroup goes with the unit, and another has its name when it is started again.
    let start = |mesh: &Mesh| mesh.node(1).host_network_pod("kubelet-unit").unwrap();
    let cgroup = start(&mesh).cgroup().to_owned();
    mesh.change(|plan| drop(plan.settings.insert("kubeletCgroup".to_owned(), cgroup.to_str().into())))
        .unwrap();
    mesh.start_daemon(1).unwrap();
    let _server = Server::start(mesh.pod("strict"), 8080, Behaviour::Echo).unwrap();
    for _ in 0..2 {
        let kubelet = start(&mesh);
        for family in FAMILIES {
            eventually("the probe passes", || echo(&kubelet, mesh.address("strict", family, 8080)).ok());
        }
    }
    let kubelet = start(&mesh);
    let newer = mesh.launch_beside(1).unwrap();
    newer.wait_until_ready().unwrap();
    mesh.put_daemon(1, newer);
    echo(&kubelet, mesh.address("strict", 0, 8080)).expect("a successor knows it, too");
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
    let mut mesh =
        MeshPlan::new(&["pod"]).pod("pod", |pod| pod.exclude_inbound_ports = vec![HBONE]).build().unwrap();
    // There first, so that the daemon's listener is at another port.
    let imposter = Server::start(mesh.pod("pod"), HBONE, Behaviour::Echo).unwrap();
    mesh.start_daemon(1).unwrap();
    for family in FAMILIES {
        for from in [&mesh.node(1).kubelet, &mesh.node(1).host, &mesh.topology().outside] {
            echo(from, mesh.address("pod", family, HBONE))
                .expect_err("something echoed on the tunnel's port");
        }
    }
    assert_eq!(imposter.accepted(), 0);
    assert_eq!(mesh.daemon(1).verdict("hbone_assigned").unwrap(), 6);
    assert_eq!(mesh.daemon(1).verdict("probe_passed").unwrap(), 0);
}

/// Catches: pods that the kubelet kills because their daemon is being replaced; a pass that others get then.
#[test]
fn a_probe_passes_while_no_daemon_is_there() {
    let mut mesh = Mesh::start(&["pod"]).unwrap();
    let server = Server::start(mesh.pod("pod"), 8080, Behaviour::Echo).unwrap();
    mesh.take_daemon(1).unwrap().kill().unwrap();
    for family in FAMILIES {
        let target = mesh.address("pod", family, 8080);
        assert_eq!(echo(&mesh.node(1).kubelet, target).unwrap(), b"are you well?");
        for from in [&mesh.node(1).host, &mesh.topology().outside] {
            let refused = from.run(move || Dial::to(target).patience(Duration::from_secs(1)).connect());
            refused.expect_err("a pod that fails closed was open");
        }
    }
    assert_eq!(server.accepted(), 2);
}

/// Catches: a port that its owner keeps out of the mesh, and that the mesh takes, hides the client from, or loses; a
/// port kept out one way that is out the other way too.
#[test]
fn an_excluded_port_is_none_of_the_meshs_business() {
    const OUT: u16 = 7070;
    const IN: u16 = 7071;
    let mesh = MeshPlan::new(&["client server"])
        .pod("client", |pod| pod.exclude_outbound_ports = vec![OUT])
        .pod("server", |pod| pod.exclude_inbound_ports = vec![IN])
        .start()
        .unwrap();
    let (client, daemon) = (mesh.pod("client"), mesh.daemon(1));
    let [_out, inbound] =
        [OUT, IN].map(|port| Server::start(mesh.pod("server"), port, Behaviour::Echo).unwrap());
    for family in FAMILIES {
        let [out, into] = [OUT, IN].map(|port| mesh.address("server", family, port));
        assert_eq!(echo(client, out).unwrap(), b"are you well?");
        assert_eq!(last_logged(daemon, "inbound", out)["path"], "plaintext");
        assert!(logged(daemon, "outbound", out).is_empty(), "the client's daemon took it");

        assert_eq!(echo(&mesh.topology().outside, into).unwrap(), b"are you well?");
        assert_eq!(inbound.clients().pop().unwrap().ip(), mesh.topology().outside_ips()[family]);
        assert!(logged(daemon, "inbound", into).is_empty(), "the server's daemon took it");

        assert_eq!(echo(client, into).unwrap(), b"are you well?");
        assert_eq!(last_logged(daemon, "inbound", into)["path"], "hbone");
    }
    assert_eq!(daemon.verdict("excluded_passed").unwrap(), 2);
    assert_eq!(daemon.verdict("inbound_excluded_passed").unwrap(), 2);
}
