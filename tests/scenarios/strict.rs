//! What still comes in plaintext, from wherever and to whichever of its addresses, a strict pod refuses.

use std::{
    fs, io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
};

use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, logged};

const PORT: u16 = 8080;
const MESSAGE: &[u8] = b"let me in";

/// `client` is of the mesh, `stranger` is not; `lax` takes plaintext, `strict` does not.
fn mesh() -> Mesh {
    let plan = MeshPlan::new(&["client stranger strict lax"]);
    plan.pod("stranger", |pod| (pod.enrolled, pod.in_state) = (false, false))
        .pod("strict", |pod| pod.strict = true)
        .start()
        .unwrap()
}

fn say(from: &Place, target: SocketAddr) -> io::Result<Vec<u8>> {
    from.run(move || Dial::to(target).exchange(MESSAGE))
}

/// Fails unless the connection is reset, is logged with `reason`, and is counted.
#[track_caller]
fn assert_refused(mesh: &Mesh, from: &Place, target: SocketAddr, reason: &str) {
    let daemon = mesh.daemon(1);
    let failed =
        || daemon.metric("istio_tcp_connections_failed_total", &[("reporter", "destination")]).unwrap();
    let (counted, seen) = (failed(), logged(daemon, "inbound", target).len());
    let error = say(from, target).expect_err("a strict pod took plaintext");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "from {} to {target}", from.name());
    let line = eventually(&format!("the refusal of {} by {target} is logged", from.name()), || {
        logged(daemon, "inbound", target).into_iter().nth(seen)
    });
    assert_eq!(line["reason"], reason, "{line}");
    eventually(&format!("it is counted: {line}"), || (failed() > counted).then_some(()));
}

/// Catches: a strict pod that takes plaintext from a pod outside of the mesh, a machine outside of the cluster, or
/// its own node; and a refusal that nobody hears of.
#[test]
fn plaintext_is_reset_wherever_it_comes_from() {
    let mesh = mesh();
    let servers = ["strict", "lax"].map(|pod| Server::start(mesh.pod(pod), PORT, Behaviour::Echo).unwrap());
    for family in FAMILIES {
        let [strict, lax] = ["strict", "lax"].map(|pod| mesh.address(pod, family, PORT));
        let strangers = [&mesh.pod("stranger").place, &mesh.topology().outside, &mesh.node(1).host];
        for from in strangers {
            assert_eq!(say(from, lax).unwrap(), MESSAGE, "no way from {} at all", from.name());
            assert_refused(&mesh, from, strict, "plaintext_in_strict");
        }
        assert_eq!(say(mesh.pod("client"), strict).unwrap(), MESSAGE);
    }
    assert_eq!(servers.map(|server| server.accepted()), [2, 6]);
}

/// Catches: a way around by an address that the mesh does not know: the link-local one that every pod has, or one
/// that was added. Link-local peers are not captured either, so even a pod of the mesh comes there in plaintext.
#[test]
fn no_address_of_a_strict_pod_takes_plaintext() {
    let mesh = mesh();
    mesh.pod("strict")
        .ip("address add 10.1.1.99/24 dev eth0\naddress add fd01:0:0:1::99/64 dev eth0 nodad")
        .unwrap();
    let servers = ["strict", "lax"].map(|pod| Server::start(mesh.pod(pod), PORT, Behaviour::Echo).unwrap());
    let [strict, lax] = ["strict", "lax"].map(|pod| link_local(mesh.pod(pod)));
    for (number, from) in ["stranger", "client"].map(|pod| mesh.pod(pod)).into_iter().enumerate() {
        let scoped = |ip| SocketAddrV6::new(ip, PORT, 0, eth0_of(from)).into();
        assert_eq!(say(from, scoped(lax)).unwrap(), MESSAGE, "link-local addresses do not work at all");
        let error = say(from, scoped(strict)).expect_err("a strict pod took plaintext");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "from {}", from.name());
        eventually("the refusal is logged", || (refusals(&mesh, strict) == number + 1).then_some(()));
    }
    for added in ["10.1.1.99", "fd01:0:0:1::99"] {
        assert_refused(
            &mesh,
            mesh.pod("stranger"),
            SocketAddr::new(added.parse().unwrap(), PORT),
            "wrong_destination",
        );
    }
    assert_eq!(servers.map(|server| server.accepted()), [0, 2]);
}

/// Catches: a way around what a control plane calls strict, which is a policy that denies whoever has no identity, and around
/// any other policy.
#[test]
fn no_address_of_a_pod_under_a_policy_takes_plaintext() {
    let mut mesh = MeshPlan::new(&["stranger strict allowing"])
        .pod("stranger", |pod| (pod.enrolled, pod.in_state) = (false, false))
        .start()
        .unwrap();
    let _servers =
        ["strict", "allowing"].map(|pod| Server::start(mesh.pod(pod), PORT, Behaviour::Echo).unwrap());
    let from = mesh.pod("stranger").place.clone();
    let eth0 = eth0_of(&from);
    let pods = ["strict", "allowing"].map(|pod| link_local(mesh.pod(pod)));
    let scoped = pods.map(|ip| SocketAddrV6::new(ip, PORT, 0, eth0).into());
    for target in scoped {
        assert_eq!(say(&from, target).unwrap(), MESSAGE, "link-local addresses do not work at all");
    }
    let no_identity = json!({ "notPrincipals": [{ "presence": {} }] });
    for policy in [
        json!({ "name": "strict", "action": "Deny", "scope": "Namespace", "rules": [[[no_identity]]] }),
        json!({ "name": "some", "action": "Allow", "scope": "Namespace", "rules": [[[{ "destinationPorts": [9] }]]] }),
    ] {
        let mut policy = policy;
        policy["namespace"] = json!("default");
        mesh.change(|plan| plan.policies = vec![policy]).unwrap();
        for target in scoped {
            eventually("plaintext is refused", || say(&from, target).is_err().then_some(()));
            assert_eq!(say(&from, target).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        mesh.change(|plan| plan.policies = Vec::new()).unwrap();
        for target in scoped {
            eventually("and taken again", || say(&from, target).ok());
        }
    }
}

/// At an address that is not the workload's. The log shows a link-local one with the scope it has in the pod.
fn refusals(mesh: &Mesh, ip: Ipv6Addr) -> usize {
    let at_ip = |line: &Value| line["dst.addr"].as_str().is_some_and(|text| text.contains(&ip.to_string()));
    let lines = mesh.daemon(1).access_log().unwrap();
    lines.iter().filter(|line| at_ip(line) && line["reason"] == "wrong_destination").count()
}

fn eth0_of(place: &Place) -> u32 {
    place.run(|| if_nametoindex("eth0").unwrap())
}

/// proc_net(5): address in hexadecimal, index, prefix length, scope (20 is link-local), flags, name.
fn link_local(place: &Place) -> Ipv6Addr {
    let table = place.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    let line = table.lines().find(|line| line.contains(" 20 ") && line.ends_with(" eth0")).unwrap();
    u128::from_str_radix(&line[..32], 16).unwrap().into()
}
