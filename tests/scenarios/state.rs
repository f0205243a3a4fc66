//! The state file is edited while all runs: good edits take effect, bad ones are told and change nothing.

use std::{fs, net::SocketAddr};

use serde_json::{Value, json};
use testkit::{
    Daemon, Mesh, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    support::{FAMILIES, last_logged, logged},
};

fn echo(from: &Place, target: SocketAddr) -> std::io::Result<()> {
    from.run(move || Dial::to(target).exchange(b"may I?")).map(drop)
}

fn of_state_file(daemon: &Daemon, metric: &str) -> f64 {
    daemon.metric(metric, &[("file", "state")]).unwrap()
}

/// Keeps the client away from the server.
fn denial() -> Value {
    json!({
        "name": "no-clients", "namespace": "default", "scope": "Namespace", "action": "Deny",
        "rules": [[[{ "principals": [{ "Exact": "cluster.local/ns/default/sa/client" }] }]]]
    })
}

/// Catches: an edit with a mistake that stops the mesh, takes half effect, or passes unnoticed.
#[test]
fn a_bad_edit_keeps_what_was_good_and_says_so() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let mut held = FAMILIES.map(|f| Held::open(mesh.pod("client"), mesh.address("server", f, 8080)));
    let good = fs::read_to_string(mesh.state_file()).unwrap();
    let loaded_at = of_state_file(mesh.daemon(1), "ztunnel_file_loaded_timestamp_seconds");
    assert!(loaded_at > 1.6e9, "{loaded_at}");
    mesh.edit(&mesh.state_file(), |state| {
        state["policies"] = json!([denial()]);
        state["workloads"][0]["protocoll"] = json!("HBONE");
    })
    .unwrap();
    for daemon in mesh.daemons() {
        eventually("the metric says so", || {
            (of_state_file(daemon, "ztunnel_file_problem") == 1.0).then_some(())
        });
        assert!(of_state_file(daemon, "ztunnel_file_failures_total") >= 1.0);
        let status = daemon.admin("/state").unwrap();
        let problem = status["state"]["problem"]["error"].as_str().unwrap().to_owned();
        assert!(problem.contains("protocoll") && problem.contains("state.yaml:"), "{problem}");
        let is_told = |line: &Value| line["level"] == "ERROR" && line.to_string().contains("protocoll");
        // Its lines are written by another thread.
        eventually("the log says so", || daemon.log_lines().unwrap().iter().any(is_told).then_some(()));
        assert_eq!(daemon.admin("/config_dump").unwrap()["policies"], json!([]), "it took half effect");
    }
    held.iter_mut().for_each(|held| held.still_works(b"as before"));
    for family in FAMILIES {
        echo(mesh.pod("client"), mesh.address("server", family, 8080)).expect("as before");
    }
    fs::write(mesh.state_file(), good).unwrap();
    for daemon in mesh.daemons() {
        eventually("all is well again", || {
            (of_state_file(daemon, "ztunnel_file_problem") == 0.0).then_some(())
        });
        assert!(daemon.admin("/state").unwrap()["state"]["problem"].is_null());
        assert!(of_state_file(daemon, "ztunnel_file_loaded_timestamp_seconds") >= loaded_at);
    }
}

/// Catches: a mistake in one policy that keeps another's new denial out, lets somebody in, or passes unnoticed.
#[test]
fn a_mistake_in_one_policy_does_not_stand_in_the_way_of_another() {
    let mut mesh = Mesh::start(&["client other", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let target = mesh.address("server", 0, 8080);
    let mut other = Held::open(mesh.pod("other"), target);
    let mut client = Held::open(mesh.pod("client"), target);
    let mistaken = json!({
        "name": "mistaken", "namespace": "default", "scope": "Namespace", "action": "Deny",
        "rules": [[[{ "destinationPorts": [9090], "sourceIps": ["everywhere"] }]]]
    });
    mesh.change(|plan| plan.policies = vec![mistaken.clone(), denial()]).unwrap();
    assert_eq!(client.ended(), Some(std::io::ErrorKind::ConnectionReset), "the good denial is not heeded");
    other.still_works(b"to another port than the mistaken policy is about");
    let daemon = mesh.daemon(2);
    let status = daemon.admin("/state").unwrap();
    let mistakes = status["state"]["mistakes"][0].as_str().unwrap();
    assert!(mistakes.contains("state.yaml:") && mistakes.contains("`default/mistaken`"), "{mistakes}");
    assert!(status["state"]["problem"].is_null());
    eventually("the mistaken policy is counted", || {
        (daemon.metric("ztunnel_policies_not_fully_enforced", &[]).unwrap() == 1.0).then_some(())
    });
    let is_told = |line: &Value| line["level"] == "ERROR" && line.to_string().contains("default/mistaken");
    assert!(daemon.log_lines().unwrap().iter().any(is_told), "the log says nothing");
    let mut allowing = mistaken;
    allowing["action"] = json!("Allow");
    mesh.change(|plan| plan.policies = vec![allowing]).unwrap();
    assert!(other.ended().is_some(), "a mistake in an ALLOW lets in");
}

/// Catches: a policy that is not enforced, or only on who comes after it, or without saying which one it was.
#[test]
fn a_policy_added_while_running_denies_and_ends_what_it_denies() {
    let mut mesh = Mesh::start(&["client other", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut denied = targets.map(|target| Held::open(mesh.pod("client"), target));
    let mut allowed = targets.map(|target| Held::open(mesh.pod("other"), target));
    let is_denial = |line: &Value| {
        line["reason"] == "denied_by_policy"
            && line["policy"] == "default/no-clients"
            && line["src.identity"] == Mesh::identity("client").as_str()
    };
    mesh.change(|plan| plan.policies.push(denial())).unwrap();
    for (held, target) in denied.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(std::io::ErrorKind::ConnectionReset), "it is still open");
        assert!(is_denial(&last_logged(mesh.daemon(2), "inbound", target)));
        assert!(echo(mesh.pod("client"), target).is_err(), "it was let in");
        eventually("the second is logged too", || {
            let lines = logged(mesh.daemon(2), "inbound", target);
            (lines.iter().filter(|line| is_denial(line)).count() == 2).then_some(())
        });
    }
    for (held, target) in allowed.iter_mut().zip(targets) {
        held.still_works(b"of whom nothing was said");
        echo(mesh.pod("other"), target).unwrap();
    }
    mesh.change(|plan| plan.policies.clear()).unwrap();
    for target in targets {
        eventually("it is let in again", || echo(mesh.pod("client"), target).ok());
    }
}
