//! What the mesh's owner decides for a namespace takes effect while all runs, in the daemon and in the kernel, and what
//! is only tried takes none.

use std::{
    fs, io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    process::Command,
};

use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, last_logged};

const PORT: u16 = 8080;
const MESSAGE: &[u8] = b"let me in";

/// `client` and `server` are of the mesh, `stranger` is not.
fn mesh() -> Mesh {
    let plan = MeshPlan::new(&["client stranger server"]);
    plan.pod("stranger", |pod| (pod.enrolled, pod.in_state) = (false, false)).start().unwrap()
}

fn say(from: &Place, target: SocketAddr) -> io::Result<()> {
    from.run(move || Dial::to(target).exchange(MESSAGE)).map(drop)
}

fn set(mesh: &Mesh, default_namespace: &Value) {
    let edit =
        |state: &mut Value| state["settings"] = json!({ "namespaces": { "default": default_namespace } });
    mesh.edit(&mesh.state_file(), edit).unwrap();
    eventually("the settings are in force", || {
        let dump = mesh.daemon(1).admin("/config_dump").unwrap();
        let own = &dump["settings"]["namespaces"]["default"];
        let fields = default_namespace.as_object().unwrap();
        fields.iter().all(|(field, value)| own[field] == *value).then_some(())
    });
}

#[track_caller]
fn assert_reset(from: &Place, target: SocketAddr) {
    let error = say(from, target).expect_err("it was let through");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "from {} to {target}", from.name());
}

/// The log may come a moment after the reset.
#[track_caller]
fn assert_told(mesh: &Mesh, direction: &str, target: SocketAddr, reason: &str) {
    eventually(&format!("{reason} is logged of {target}"), || {
        (last_logged(mesh.daemon(1), direction, target)["reason"] == reason).then_some(())
    });
}

/// Catches: strictness that the daemon follows and the kernel does not, so that a pod whose namespace turned strict is
/// still reached at its link-local address; and one that outlives the setting.
#[test]
fn a_namespace_that_turns_strict_takes_no_plaintext_at_any_address() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let stranger = mesh.pod("stranger");
    let scope = stranger.run(|| if_nametoindex("eth0").unwrap());
    let local = SocketAddrV6::new(link_local(mesh.pod("server")), PORT, 0, scope).into();
    let addresses: Vec<SocketAddr> =
        FAMILIES.map(|family| mesh.address("server", family, PORT)).into_iter().chain([local]).collect();
    for &address in &addresses {
        say(stranger, address).expect("plaintext is welcome");
    }
    set(&mesh, &json!({ "mtls": "strict" }));
    eventually("the kernel knows", || say(stranger, local).is_err().then_some(()));
    for &address in &addresses {
        assert_reset(stranger, address);
    }
    for family in FAMILIES {
        let target = mesh.address("server", family, PORT);
        assert_told(&mesh, "inbound", target, "plaintext_in_strict");
        say(mesh.pod("client"), target).expect("mutual TLS is welcome");
    }
    set(&mesh, &json!({ "mtls": "permissive" }));
    for &address in &addresses {
        eventually("plaintext is welcome again", || say(stranger, address).ok());
    }
}

/// Catches: a way out, or in, that the setting does not close; and one that it should not.
#[test]
fn deny_by_default_and_the_registry_close_what_they_say() {
    let mesh = mesh();
    let _servers = [&mesh.pod("server").place, &mesh.topology().outside]
        .map(|place| Server::start(place, PORT, Behaviour::Echo).unwrap());
    for family in FAMILIES {
        let inside = mesh.address("server", family, PORT);
        let outside = SocketAddr::new(mesh.topology().outside_ips()[family], PORT);
        set(&mesh, &json!({ "egress": "registryOnly", "defaultDeny": false }));
        say(mesh.pod("client"), inside).expect("the registry knows the server");
        assert_reset(mesh.pod("client"), outside);
        assert_told(&mesh, "outbound", outside, "not_in_registry");
        set(&mesh, &json!({ "egress": "passthrough", "defaultDeny": true }));
        say(mesh.pod("client"), outside).expect("anybody may be reached");
        assert_reset(mesh.pod("client"), inside);
        assert_told(&mesh, "inbound", inside, "default_deny");
    }
}

/// Catches: an audit that refuses, or that nobody hears of; and plaintext that is on no list.
#[test]
fn an_audit_and_the_list_of_plaintext_say_what_strictness_would_refuse() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    set(&mesh, &json!({ "audit": { "mtls": "strict", "defaultDeny": null } }));
    for family in FAMILIES {
        let target = mesh.address("server", family, PORT);
        say(mesh.pod("stranger"), target).expect("an audit refuses nobody");
        let line = last_logged(mesh.daemon(1), "inbound", target);
        assert_eq!((&line["audit"], &line["reason"]), (&json!("plaintext_in_strict"), &json!("completed")));
        say(mesh.pod("client"), target).unwrap();
        eventually("what came by mutual TLS would be allowed", || {
            (last_logged(mesh.daemon(1), "inbound", target)["audit"] == "allowed").then_some(())
        });
    }
    let daemon = mesh.daemon(1);
    let list = daemon.admin("/plaintext").unwrap();
    let listed: Vec<_> = list["accepted"].as_array().unwrap().iter().map(|pair| &pair["source"]).collect();
    let stranger = mesh.pod("stranger").ips();
    assert_eq!(listed.len(), FAMILIES.len(), "{list}");
    assert!(stranger.iter().all(|ip| listed.contains(&&json!(ip))), "{list}");

    let program = format!("/proc/{}/exe", daemon.id());
    let answer = daemon.place().run(move || Command::new(program).arg("plaintext").output().unwrap());
    let table = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(answer.status.code(), Some(1), "there is plaintext: {table}");
    assert!(stranger.iter().all(|ip| table.contains(&ip.to_string())), "{table}");
}

/// proc_net(5): address in hexadecimal, index, prefix length, scope (20 is link-local), flags, name.
fn link_local(place: &Place) -> Ipv6Addr {
    let table = place.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    let line = table.lines().find(|line| line.contains(" 20 ") && line.ends_with(" eth0")).unwrap();
    u128::from_str_radix(&line[..32], 16).unwrap().into()
}
