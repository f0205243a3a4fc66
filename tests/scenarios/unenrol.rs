//! Uninstalling: nothing of the mesh is left on the node, and its pods talk plainly.

use std::{fs, path::Path, process::Command};

use testkit::{
    Mesh, MeshPlan, Place,
    capture::{Capture, Keep},
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::FAMILIES;

const OPEN_LETTER: &[u8] = b"everybody may read this on the wire";

fn ip(place: &Place, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    String::from_utf8(place.output(command).unwrap().stdout).unwrap()
}

/// Rules and routes of ours.
fn steering(place: &Place) -> usize {
    let rules = ["-4 rule", "-6 rule"].map(|list| ip(place, list).matches("fwmark 0x5a1").count());
    let routes =
        ["-4 route show table 1441", "-6 route show table 1441"].map(|list| ip(place, list).lines().count());
    rules.into_iter().chain(routes).sum()
}

/// What `ztunnel unenrol --all` says, on the node.
fn unenrol(mesh: &Mesh, cni: &Path, wait: &str) -> (bool, String) {
    let mut command = Command::new(mesh.binary());
    command.args(["unenrol", "--all", "--wait", wait, "--bpf-dir"]).arg(mesh.bpf_directory(1));
    command.arg("--cni-configurations").arg(cni.join("net.d")).arg("--cni-binaries").arg(cni.join("bin"));
    let output = mesh.node(1).host.output(command).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Catches: pods that cannot talk any more, and anything left behind, when the mesh is uninstalled.
#[test]
fn nothing_is_left_on_the_node_and_pods_talk_plainly() {
    let mut mesh = MeshPlan::new(&["client neighbour", "server"]).start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let cni = mesh.directory().join("cni");
    let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}"#;
    for directory in ["net.d", "bin"] {
        fs::create_dir_all(cni.join(directory)).unwrap();
    }
    let ours = list.replace("]}", r#",{"type":"ztunnel-cni","socket":"/nowhere/cni.sock"}]}"#);
    fs::write(cni.join("net.d/10-pods.conflist"), ours).unwrap();
    fs::write(cni.join("bin/ztunnel-cni"), "the plugin").unwrap();
    let (done, told) = unenrol(&mesh, &cni, "0s");
    assert!(!done && told.contains("stop it first"), "under a living daemon: {told}");
    assert!(cni.join("bin/ztunnel-cni").exists(), "it has begun all the same");
    for pod in ["client", "neighbour"] {
        assert_eq!(steering(mesh.pod(pod)), 4, "a rule and a route for each family");
    }
    // Node 2 has nothing to expect of node 1 but plaintext.
    for node in [1, 2] {
        mesh.take_daemon(node).unwrap().kill().unwrap();
    }
    let target = mesh.address("server", 0, 8080);
    let client = mesh.pod("client").place.clone();
    assert!(client.run(move || Dial::to(target).exchange(OPEN_LETTER)).is_err(), "a stop is no uninstalling");
    let (done, told) = unenrol(&mesh, &cni, "15s");
    assert!(done && told.contains("pods: 2"), "{told}");
    assert!(!mesh.bpf_directory(1).exists(), "pins are left");
    for pod in ["client", "neighbour"] {
        assert_eq!(steering(mesh.pod(pod)), 0, "rules or routes are left in {pod}");
    }
    assert!(!fs::read_to_string(cni.join("net.d/10-pods.conflist")).unwrap().contains("ztunnel"));
    assert!(!cni.join("bin/ztunnel-cni").exists());
    let _neighbour = Server::start(mesh.pod("neighbour"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let near = mesh.address("neighbour", family, 8080);
        assert_eq!(client.run(move || Dial::to(near).exchange(OPEN_LETTER)).unwrap(), OPEN_LETTER);
        let outside = Server::start(&mesh.topology().outside, 9090, Behaviour::Echo).unwrap();
        let beyond = std::net::SocketAddr::new(mesh.topology().outside_ips()[family], 9090);
        let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
        assert_eq!(client.run(move || Dial::to(beyond).exchange(OPEN_LETTER)).unwrap(), OPEN_LETTER);
        assert!(capture.stop().unwrap().contains(OPEN_LETTER), "plainly");
        drop(outside);
    }
    let (done, told) = unenrol(&mesh, &cni, "0s");
    assert!(done, "once more does no harm: {told}");
    mesh.start_daemon(1).unwrap();
    eventually("and the mesh may come back", || mesh.daemon(1).serves(&Mesh::uid("client")).then_some(()));
}
