//! Pods come and go, and change their minds. What is open goes on; nothing is left behind.

use std::{fs, io::ErrorKind, net::SocketAddr, process::Command, thread::sleep, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;
use testkit::{
    Mesh, MeshPlan, Place,
    capture::{Capture, Keep},
    client::Dial,
    eventually, pinned_map,
    rate::Rate,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    support::{FAMILIES, assert_encrypted, logged},
};

const SECRET: &[u8] = b"nobody may read this on the wire";
const OPEN_LETTER: &[u8] = b"everybody may read this on the wire";

fn echo(from: &Place, target: SocketAddr) -> std::io::Result<()> {
    from.run(move || Dial::to(target).exchange(OPEN_LETTER)).map(drop)
}

/// What `ip` says inside.
fn ip(place: &Place, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    String::from_utf8(place.output(command).unwrap().stdout).unwrap()
}

/// How many rules and routes of ours a pod has.
fn steering(place: &Place) -> usize {
    let rules = ["-4 rule", "-6 rule"].map(|list| ip(place, list).matches("fwmark 0x5a1").count());
    let routes =
        ["-4 route show table 1441", "-6 route show table 1441"].map(|list| ip(place, list).lines().count());
    rules.into_iter().chain(routes).sum()
}

/// What the kernel side knows of a node's pods: map entries, listeners, links.
fn kernel_state(mesh: &Mesh, node: usize) -> (usize, usize, usize) {
    let directory = mesh.bpf_directory(node);
    let version = fs::read_dir(&directory)
        .unwrap()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().starts_with('v'));
    let maps = version.expect("pinned maps").path();
    let keys = |map: &str, bytes| pinned_map::keys(&maps.join(map), bytes).unwrap().len();
    let links = fs::read_dir(directory.join("links")).unwrap().flatten();
    let links = links.filter(|entry| entry.file_name().to_string_lossy().starts_with("pod-")).count();
    (keys("PODS", 8), keys("LISTENERS", 16), links)
}

/// The pods that are attached to a node's bridge: a pod's interface goes only when its namespace does.
fn interfaces(mesh: &Mesh) -> usize {
    ip(&mesh.node(1).host, "-o link show master br0").lines().count()
}

/// Traffic both ways while the pod goes, in one of two orders.
fn nothing_is_left_of_a_pod(delete: impl FnOnce(&mut Mesh) -> testkit::Pod) {
    let mut mesh = Mesh::start(&["doomed other", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let doomed_server = Server::start(mesh.pod("doomed"), 9090, Behaviour::Echo).unwrap();
    assert_eq!(kernel_state(&mesh, 1), (2, 6, 2));
    let before = interfaces(&mesh);
    let out = FAMILIES.map(|f| Rate::start(mesh.pod("doomed"), mesh.address("server", f, 8080), 50));
    let into = FAMILIES.map(|f| Rate::start(mesh.pod("other"), mesh.address("doomed", f, 9090), 50));
    let mut held = FAMILIES.map(|f| Held::open(mesh.pod("other"), mesh.address("doomed", f, 9090)));
    sleep(Duration::from_millis(300));
    let pod = delete(&mut mesh);
    for rate in out {
        assert!(rate.stop().unwrap().answered > 5);
    }
    drop((pod, doomed_server));
    eventually("its namespace is gone", || (interfaces(&mesh) == before - 1).then_some(()));
    eventually("the kernel side knows it no more", || (kernel_state(&mesh, 1) == (1, 3, 1)).then_some(()));
    for rate in into {
        assert!(rate.stop().unwrap().answered > 5);
    }
    held.iter_mut().for_each(|held| assert!(held.says(SECRET).is_err(), "the pod is gone"));
    let connections = mesh.daemon(1).connections().unwrap();
    assert!(connections.iter().all(|connection| connection["local"] != Mesh::uid("doomed").as_str()));
    for family in FAMILIES {
        echo(mesh.pod("other"), mesh.address("server", family, 8080)).expect("the others are served");
    }
}

/// Catches: a namespace that the daemon keeps alive, and what it leaves pinned, when nobody told it of the end.
#[test]
fn a_pod_deleted_under_traffic_leaves_nothing_behind() {
    nothing_is_left_of_a_pod(|mesh| mesh.vanish("doomed").unwrap());
}

/// Catches: the same, when the daemon is told first and the pod lives for a while longer.
#[test]
fn a_pod_let_go_and_then_deleted_leaves_nothing_behind() {
    nothing_is_left_of_a_pod(|mesh| {
        let pod = mesh.take_pod(1, "doomed").unwrap();
        eventually("it is no longer captured", || (kernel_state(mesh, 1).0 == 1).then_some(()));
        pod
    });
}

/// Catches: a restart or an edit that changes nothing, yet doubles rules or costs a connection.
#[test]
fn to_enrol_twice_is_to_enrol_once() {
    let mut mesh = Mesh::start(&["client", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let mut held = FAMILIES.map(|f| Held::open(mesh.pod("client"), mesh.address("server", f, 8080)));
    assert_eq!(steering(mesh.pod("client")), 4, "a rule and a route for each family");
    let loads = || mesh.daemon(1).metric("ztunnel_file_loads_total", &[("file", "pods")]).unwrap();
    let before = loads();
    mesh.edit(&mesh.pods_file(1), |pods| pods["pods"][0]["mtls"] = json!("permissive")).unwrap();
    eventually("the file is loaded again", || (loads() > before).then_some(()));
    held.iter_mut().for_each(|held| held.still_works(SECRET));
    mesh.take_daemon(1).unwrap().kill().unwrap();
    assert_eq!((steering(mesh.pod("client")), kernel_state(&mesh, 1).2), (4, 1), "it outlives the daemon");
    mesh.start_daemon(1).unwrap();
    assert_eq!((steering(mesh.pod("client")), kernel_state(&mesh, 1)), (4, (1, 3, 1)));
    for family in FAMILIES {
        echo(mesh.pod("client"), mesh.address("server", family, 8080)).unwrap();
    }
}

/// Catches: one broken pod that keeps others from the mesh, hides its problem, or stays broken for ever.
#[test]
fn a_pod_that_cannot_be_enrolled_holds_nobody_up_and_is_tried_again() {
    let mut mesh = MeshPlan::new(&["first broken last", "server"]).build().unwrap();
    let late = mesh.directory().join("late-namespace");
    let broken = json!(late);
    mesh.edit(&mesh.pods_file(1), |pods| pods["pods"][1]["netns"] = broken).unwrap();
    mesh.start_daemon(1).unwrap();
    mesh.start_daemon(2).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let target = mesh.address("server", 0, 8080);
    for pod in ["first", "last"] {
        echo(mesh.pod(pod), target).unwrap();
        assert!(mesh.daemon(1).serves(&Mesh::uid(pod)));
    }
    let status = mesh.daemon(1).admin("/pods").unwrap();
    let status = status.as_array().unwrap().iter().find(|pod| pod["uid"] == Mesh::uid("broken")).unwrap();
    assert_eq!(status["enrolled"], false);
    assert!(status["problem"].as_str().unwrap().contains("late-namespace"), "{status}");
    std::os::unix::fs::symlink(mesh.pod("broken").netns(), &late).unwrap();
    eventually("it is enrolled", || mesh.daemon(1).serves(&Mesh::uid("broken")).then_some(()));
    let capture = Capture::start(mesh.pod("broken"), "eth0", Keep::Everything).unwrap();
    for family in FAMILIES {
        echo(mesh.pod("broken"), mesh.address("server", family, 8080)).unwrap();
    }
    assert_encrypted(&capture.stop().unwrap(), &mesh.pod("broken").ips(), OPEN_LETTER);
}

/// Catches: an un-enrolment that breaks what is open, lets it out in clear, or leaves something in the pod.
#[test]
fn a_pod_let_go_keeps_what_is_open_and_is_its_own_afterwards() {
    let mut mesh = Mesh::start(&["client", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let _own = Server::start(mesh.pod("client"), 9090, Behaviour::Echo).unwrap();
    let out = FAMILIES.map(|f| Held::open(mesh.pod("client"), mesh.address("server", f, 8080)));
    let into = FAMILIES.map(|f| Held::open(mesh.pod("server"), mesh.address("client", f, 9090)));
    let mut held: Vec<Held> = out.into_iter().chain(into).collect();
    let capture = Capture::start(mesh.pod("client"), "eth0", Keep::Everything).unwrap();
    mesh.change(|plan| plan.pods.entry("client".to_owned()).or_default().enrolled = false).unwrap();
    eventually("it is no longer captured", || (kernel_state(&mesh, 1).0 == 0).then_some(()));
    let direct = |round: usize| {
        for family in FAMILIES {
            let target = mesh.address("server", family, 8080);
            echo(mesh.pod("client"), target).expect("a direct connection");
            eventually("it came without a tunnel", || {
                let lines = logged(mesh.daemon(2), "inbound", target);
                (lines.iter().filter(|line| line["path"] == "plaintext").count() == round).then_some(())
            });
        }
    };
    direct(1);
    held.iter_mut().for_each(|held| held.still_works(SECRET));
    assert_eq!(steering(mesh.pod("client")), 4, "what is open still needs it");
    drop(held);
    eventually("the pod is as if it had never been enrolled", || {
        (steering(mesh.pod("client")) == 0 && kernel_state(&mesh, 1) == (0, 0, 0)).then_some(())
    });
    direct(2);
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    assert!(recording.contains(OPEN_LETTER), "the capture sees nothing");
    assert!(!recording.contains(SECRET), "an open connection was continued in clear");
}

/// Catches: a connection that never ends and keeps a pod half enrolled with it.
#[test]
fn a_pod_let_go_is_clean_at_the_drain_deadline() {
    let mut mesh = MeshPlan::new(&["client", "server"]).setting("drainDeadline", "1s").start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let mut held = FAMILIES.map(|f| Held::open(mesh.pod("client"), mesh.address("server", f, 8080)));
    mesh.change(|plan| plan.pods.entry("client".to_owned()).or_default().enrolled = false).unwrap();
    eventually("the pod is as if it had never been enrolled", || {
        (steering(mesh.pod("client")) == 0 && kernel_state(&mesh, 1) == (0, 0, 0)).then_some(())
    });
    held.iter_mut().for_each(|held| assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset)));
}

/// Catches: the end of an old enrolment that takes the new one of the same pod along.
#[test]
fn a_pod_that_comes_back_while_it_is_let_go_stays_enrolled() {
    let mut mesh = Mesh::start(&["client", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let mut held = FAMILIES.map(|f| Held::open(mesh.pod("client"), mesh.address("server", f, 8080)));
    let enrolled = |mesh: &mut Mesh, enrolled| {
        mesh.change(|plan| plan.pods.entry("client".to_owned()).or_default().enrolled = enrolled).unwrap();
        let expected = usize::from(enrolled);
        eventually("the change is in force", || (kernel_state(mesh, 1).0 == expected).then_some(()));
    };
    enrolled(&mut mesh, false);
    enrolled(&mut mesh, true);
    held.iter_mut().for_each(|held| held.still_works(SECRET));
    drop(held);
    // Time for an old enrolment to end, and to be cleaned up after.
    sleep(Duration::from_millis(500));
    assert_eq!((kernel_state(&mesh, 1), steering(mesh.pod("client"))), ((1, 3, 1), 4));
    let capture = Capture::start(mesh.pod("client"), "eth0", Keep::Everything).unwrap();
    for family in FAMILIES {
        echo(mesh.pod("client"), mesh.address("server", family, 8080)).unwrap();
    }
    let recording = capture.stop().unwrap();
    assert!(!recording.contains(OPEN_LETTER));
    assert!(mesh.pod("client").ips().iter().all(|ip| recording.plaintext_syns_from(*ip).is_empty()));
}

/// Catches: a changed fail mode that costs connections, or that only the next daemon knows of.
#[test]
fn a_fail_mode_changes_under_open_connections() {
    let mut mesh = Mesh::start(&["client", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let _outside = Server::start(&mesh.topology().outside, 8080, Behaviour::Echo).unwrap();
    let targets = mesh.topology().outside_ips().map(|ip| SocketAddr::new(ip, 8080));
    let mut held = FAMILIES.map(|f| Held::open(mesh.pod("client"), mesh.address("server", f, 8080)));
    mesh.change(|plan| plan.pods.entry("client".to_owned()).or_default().fail_open = true).unwrap();
    eventually("the daemon knows", || {
        (mesh.daemon(1).admin("/pods").unwrap()[0]["settings"]["failMode"] == "open").then_some(())
    });
    held.iter_mut().for_each(|held| held.still_works(SECRET));
    mesh.daemon(1).signal(Signal::SIGKILL).unwrap();
    for (held, target) in held.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset));
        eventually("a fail-open pod goes on", || echo(mesh.pod("client"), target).ok());
    }
}

/// Catches: a pod that turns strict and keeps its plaintext, or loses its tunnels.
#[test]
fn a_pod_that_turns_strict_ends_plaintext_only() {
    let mut mesh = Mesh::start(&["client", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let outside = mesh.topology().outside.clone();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut tunnelled = targets.map(|target| Held::open(mesh.pod("client"), target));
    let mut plain = targets.map(|target| Held::open(&outside, target));
    mesh.change(|plan| plan.pods.entry("server".to_owned()).or_default().strict = true).unwrap();
    for (held, target) in plain.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset));
        assert!(echo(&outside, target).is_err(), "plaintext to a strict pod");
        eventually("its refusal is logged", || {
            let last = logged(mesh.daemon(2), "inbound", target).pop()?;
            (last["reason"] == "plaintext_in_strict").then_some(())
        });
    }
    tunnelled.iter_mut().for_each(|held| held.still_works(SECRET));
    echo(mesh.pod("client"), targets[0]).unwrap();
}
