//! Modes of mutual TLS at their narrower levels, and policies that are only tried.

use std::{io, net::SocketAddr};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    services::{PORT, service},
    support::{FAMILIES, last_logged},
};

const OTHER: u16 = 8081;

/// `client` and `server` are of the mesh and on different nodes, `stranger` is not of it.
fn mesh() -> Mesh {
    let plan = MeshPlan::new(&["client stranger", "server"]);
    let plan = plan.pod("stranger", |pod| (pod.enrolled, pod.in_state) = (false, false));
    plan.service(service("default", "web", &["server"])).start().unwrap()
}

fn set(mesh: &Mesh, default_namespace: &Value) {
    mesh.edit(&mesh.state_file(), |state| {
        state["settings"] = json!({ "namespaces": { "default": default_namespace } });
    })
    .unwrap();
}

fn say(from: &Place, target: SocketAddr) -> io::Result<()> {
    from.run(move || Dial::to(target).exchange(b"let me in")).map(drop)
}

/// A level that is not looked at, or one that reaches further than it says, lets somebody in or keeps somebody out.
#[test]
fn a_port_a_service_and_a_workload_are_strict_by_themselves() {
    let mesh = mesh();
    let _servers =
        [PORT, OTHER].map(|port| Server::start(mesh.pod("server"), port, Behaviour::Echo).unwrap());
    let levels = [
        (json!({ "workloads": { "server": { "ports": { "8080": "strict" } } } }), false),
        (json!({ "services": { "web.default.example": { "mtls": "strict" } } }), false),
        (json!({ "workloads": { "server": { "mtls": "strict" } } }), true),
    ];
    for (level, closes_the_other) in levels {
        set(&mesh, &level);
        for family in FAMILIES {
            let [target, other] = [PORT, OTHER].map(|port| mesh.address("server", family, port));
            let stranger = mesh.pod("stranger");
            eventually("plaintext is refused", || {
                let refused = say(stranger, target).is_err();
                (refused && say(stranger, other).is_err() == closes_the_other).then_some(())
            });
            eventually(&format!("it is logged of {target}: {level}"), || {
                (last_logged(mesh.daemon(2), "inbound", target)["reason"] == "plaintext_in_strict")
                    .then_some(())
            });
            say(mesh.pod("client"), target).expect("mutual TLS is welcome");
        }
        set(&mesh, &json!({}));
        let target = mesh.address("server", 0, PORT);
        eventually("plaintext is welcome again", || say(mesh.pod("stranger"), target).ok());
    }
}

/// Would break if a workload that takes plaintext only were tunnelled to, or were taken for one that has proven something.
#[test]
fn a_workload_whose_mutual_tls_is_disabled_is_reached_in_plaintext() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    set(&mesh, &json!({ "workloads": { "server": { "mtls": "disable" } } }));
    for family in FAMILIES {
        let target = mesh.address("server", family, PORT);
        eventually("it is reached in plaintext", || {
            say(mesh.pod("client"), target).ok()?;
            let [out, into] = [(1, "outbound"), (2, "inbound")]
                .map(|(node, direction)| last_logged(mesh.daemon(node), direction, target));
            (out["path"] == "passthrough" && into["path"] == "plaintext").then(|| {
                assert!(into["src.identity"].is_null(), "nobody proved anything: {into}");
            })
        });
        say(mesh.pod("stranger"), target).expect("plaintext is what it takes");
    }
}

/// Would break if what is only tried refused somebody, or told something else than what would be decided.
#[test]
fn a_dry_run_and_an_audit_of_denial_refuse_nobody_and_are_told() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let target = mesh.address("server", 0, PORT);
    let mut held = Held::open(mesh.pod("client"), target);
    let audits = || {
        say(mesh.pod("client"), target).expect("nobody is refused");
        let line = last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["reason"], "completed", "{line}");
        (line["audit"].clone(), line["audit_policy"].clone())
    };
    let denial = json!({
        "name": "no-clients", "namespace": "default", "scope": "Namespace", "action": "Deny", "dryRun": true,
        "rules": [[[{ "principals": [{ "exact": "cluster.local/ns/default/sa/client" }] }]]]
    });
    mesh.edit(&mesh.state_file(), |state| state["policies"] = json!([denial])).unwrap();
    eventually("the dry run is told", || {
        (audits() == (json!("denied_by_policy"), json!("default/no-clients"))).then_some(())
    });
    mesh.edit(&mesh.state_file(), |state| {
        state["policies"] = json!([]);
        state["settings"] = json!({ "audit": { "defaultDeny": true } });
    })
    .unwrap();
    eventually("the audit is told", || (audits().0 == "default_deny").then_some(()));
    held.still_works(b"as before");

    eventually("it is told of the open one, too", || {
        let shown = mesh.daemon(2).admin("/connections").unwrap();
        shown.as_array().unwrap().iter().any(|one| one["audit"]["decision"] == "default_deny").then_some(())
    });
}
