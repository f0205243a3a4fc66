//! Pods that run already: found by their processes, in the mesh by their labels, and out of it again, while they run.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    api_server::ApiServer,
    capture::{Capture, Keep},
    client::Dial,
    container::Container,
    eventually,
    kubernetes::{Plugin, Sandbox, api_server, namespace, pod, uid_of},
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    support::{FAMILIES, assert_encrypted},
};

const SECRET: &[u8] = b"the payload that nobody else may read";

struct Cluster {
    /// In order of destruction: their cgroups are within those of the mesh's pods.
    _containers: Vec<Container>,
    mesh: Mesh,
    api: ApiServer,
}

impl Cluster {
    /// All pods run, in a namespace that is not in the mesh.
    fn start(nodes: &[&str]) -> Self {
        let mut mesh = MeshPlan::new(nodes).kubernetes().build().unwrap();
        let api = api_server(&mesh).unwrap();
        api.put(namespace("default", None)).unwrap();
        let mut containers = Vec::new();
        for number in 1..=nodes.len() {
            for running in &mesh.node(number).pods {
                api.put(pod(&mesh, number, running.name(), &running.ips())).unwrap();
                containers.push(Container::start(running, &uid_of(&mesh, running.name())).unwrap());
            }
            mesh.start_daemon(number).unwrap();
        }
        Self { mesh, api, _containers: containers }
    }

    fn label(&self, mode: Option<&str>) {
        self.api.put(namespace("default", mode)).unwrap();
    }

    #[track_caller]
    fn until(&self, node: usize, name: &str, served: bool) {
        let uid = Mesh::uid(name);
        eventually(&format!("{name} served: {served}"), || {
            (self.mesh.daemon(node).serves(&uid) == served).then_some(())
        });
    }

    fn problem(&self, name: &str) -> Option<String> {
        let pods = self.mesh.daemon(1).admin("/pods").unwrap();
        let uid = Mesh::uid(name);
        let is_it = |pod: &&Value| pod["uid"] == uid.as_str();
        pods.as_array().unwrap().iter().find(is_it)?["problem"].as_str().map(str::to_owned)
    }
}

#[track_caller]
fn echo(from: &Place, target: SocketAddr) {
    assert_eq!(from.run(move || Dial::to(target).exchange(SECRET)).expect("an echo"), SECRET);
}

/// Catches: a pod that has to be restarted to be in the mesh or out of it, and connections that end because of it.
#[test]
fn a_label_takes_running_pods_in_and_out() {
    let cluster = Cluster::start(&["client", "server"]);
    let mesh = &cluster.mesh;
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client");
    let mut older = FAMILIES.map(|family| Held::open(client, mesh.address("server", family, 8080)));
    cluster.label(Some("ambient"));
    cluster.until(1, "client", true);
    cluster.until(2, "server", true);
    for family in FAMILIES {
        let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
        echo(client, mesh.address("server", family, 8080));
        assert_encrypted(&capture.stop().unwrap(), &client.ips(), SECRET);
    }
    let mut during = FAMILIES.map(|family| Held::open(client, mesh.address("server", family, 8080)));
    cluster.label(Some("none"));
    cluster.until(1, "client", false);
    cluster.until(2, "server", false);
    for family in FAMILIES {
        echo(client, mesh.address("server", family, 8080));
    }
    older.iter_mut().chain(&mut during).for_each(|held| held.still_works(SECRET));
    cluster.label(Some("ambient"));
    cluster.until(1, "client", true);
}

/// Catches: pods enrolled that must not be, whatever their labels say.
#[test]
fn who_must_not_be_enrolled_never_is() {
    let cluster = Cluster::start(&["client sidecar on-host opted-out"]);
    let api = &cluster.api;
    let node = cluster.mesh.node(1);
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut pod = pod(&cluster.mesh, 1, name, &cluster.mesh.pod(name).ips());
        change(&mut pod);
        api.put(pod).unwrap();
    };
    changed("sidecar", &|pod| pod["spec"]["containers"][0]["name"] = json!("istio-proxy"));
    changed("on-host", &|pod| pod["spec"]["hostNetwork"] = json!(true));
    changed("opted-out", &|pod| pod["metadata"]["labels"]["istio.io/dataplane-mode"] = json!("none"));
    let mut elsewhere = pod(&cluster.mesh, 2, "elsewhere", &node.ips());
    elsewhere["metadata"]["labels"]["istio.io/dataplane-mode"] = json!("ambient");
    api.put(elsewhere).unwrap();
    cluster.label(Some("ambient"));
    cluster.until(1, "client", true);
    let pods = cluster.mesh.daemon(1).admin("/pods").unwrap();
    assert_eq!(pods.as_array().unwrap().len(), 1, "{pods}");
}

/// Catches: a pod that has another's, or the node's, network namespace taken for its own.
#[test]
fn a_pod_cannot_have_another_s_namespace_enrolled() {
    let cluster = Cluster::start(&["attacker"]);
    let mesh = &cluster.mesh;
    // The victim's name in cgroups below the attacker's own: the attacker's process would stand for it.
    let slice = |name: &str| format!("kubepods-burstable-pod{}.slice", uid_of(mesh, name).replace('-', "_"));
    let _second =
        Container::start_in(mesh.pod("attacker"), &["second", &slice("attacker"), &slice("victim")]).unwrap();
    let ips = mesh.pod("attacker").ips();
    cluster.api.put(pod(mesh, 1, "victim", &ips)).unwrap();
    // And a pod whose process is in the node's own namespace.
    let host = mesh.node(1).host_network_pod("astray").unwrap();
    let _astray = Container::start(&host, &uid_of(mesh, "astray")).unwrap();
    cluster.api.put(pod(mesh, 1, "astray", &mesh.node(1).bridge_ips())).unwrap();
    // And one that has another address than the API server says.
    cluster.api.put(pod(mesh, 1, "attacker", &mesh.node(1).daemon_ips())).unwrap();
    cluster.label(Some("ambient"));
    eventually("each problem is told", || {
        let told =
            |name: &str, part: &str| cluster.problem(name).is_some_and(|problem| problem.contains(part));
        (told("victim", "no process of it") && told("astray", "node's network namespace")).then_some(())
    });
    eventually("the address is looked at", || {
        cluster.problem("attacker").is_some_and(|problem| problem.contains("does not have")).then_some(())
    });
    for name in ["victim", "astray", "attacker"] {
        assert!(!mesh.daemon(1).serves(&Mesh::uid(name)), "{name}");
    }
}

/// Catches: a restart that forgets pods, or holds on to those that went meanwhile; plaintext in between.
#[test]
fn a_restarted_daemon_finds_its_pods_again() {
    let mut cluster = Cluster::start(&["client leaver", "server"]);
    cluster.label(Some("ambient"));
    for (node, name) in [(1, "client"), (1, "leaver"), (2, "server")] {
        cluster.until(node, name, true);
    }
    let _server = Server::start(cluster.mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    cluster.mesh.take_daemon(1).unwrap().kill().unwrap();
    let target = cluster.mesh.address("server", 0, 8080);
    let client = cluster.mesh.pod("client").place.clone();
    assert!(client.run(move || Dial::to(target).exchange(SECRET)).is_err(), "closed while nobody serves it");
    cluster.api.delete("v1", "pods", "default", "leaver");
    cluster.mesh.start_daemon(1).unwrap();
    assert!(cluster.mesh.daemon(1).serves(&Mesh::uid("client")), "ready means that it is served");
    assert!(!cluster.mesh.daemon(1).serves(&Mesh::uid("leaver")));
    let capture = Capture::start(cluster.mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
    echo(&client, target);
    assert_encrypted(&capture.stop().unwrap(), &cluster.mesh.pod("client").ips(), SECRET);
}

/// Catches: pods that leave the mesh because the API server does not answer, and changes that are lost over it.
#[test]
fn the_api_server_may_be_away() {
    let mut cluster = Cluster::start(&["client server"]);
    cluster.label(Some("ambient"));
    cluster.until(1, "client", true);
    cluster.until(1, "server", true);
    let _server = Server::start(cluster.mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    cluster.api.stop();
    let connected =
        |cluster: &Cluster| cluster.mesh.daemon(1).metric("ztunnel_discovery_connected", &[]).unwrap();
    eventually("the loss is told", || (connected(&cluster) == 0.0).then_some(()));
    assert!(cluster.mesh.daemon(1).is_ready());
    echo(cluster.mesh.pod("client"), cluster.mesh.address("server", 0, 8080));
    cluster.api.delete("v1", "pods", "default", "server");
    cluster.api.resume().unwrap();
    cluster.until(1, "server", false);
    eventually("it is there again", || (connected(&cluster) == 1.0).then_some(()));
    cluster.until(1, "client", true);
}

/// Catches: an update in which pods lose the mesh, or new ones are seen by nobody.
#[test]
fn two_daemons_follow_at_once_in_an_update() {
    let mut cluster = Cluster::start(&["client server late"]);
    cluster.label(Some("ambient"));
    cluster.until(1, "client", true);
    let _server = Server::start(cluster.mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = cluster.mesh.pod("client").place.clone();
    let mut held = Held::open(&client, cluster.mesh.address("server", 0, 8080));
    let newer = cluster.mesh.launch_beside(1).unwrap();
    newer.wait_until_ready().unwrap();
    let mut older = cluster.mesh.take_daemon(1).unwrap();
    older.terminate().unwrap();
    cluster.mesh.put_daemon(1, newer);
    // While the older drains, it must not undo what the newer does.
    cluster.api.delete("v1", "pods", "default", "late");
    cluster.until(1, "late", false);
    cluster.api.put(pod(&cluster.mesh, 1, "late", &cluster.mesh.pod("late").ips())).unwrap();
    cluster.until(1, "late", true);
    held.still_works(SECRET);
    drop(held);
    assert!(older.wait(Duration::from_secs(30)).unwrap().success());
    echo(&client, cluster.mesh.address("server", 0, 8080));
}

/// Catches: a pod that runs, and is taken out of the mesh because a sandbox that it had once is taken down again.
#[test]
fn a_sandbox_that_ended_long_ago_takes_nobody_away() {
    let cluster = Cluster::start(&["client", "server"]);
    let mesh = &cluster.mesh;
    cluster.label(Some("ambient"));
    cluster.until(1, "client", true);
    cluster.until(2, "server", true);
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client");
    let target = mesh.address("server", 0, 8080);
    let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
    let mut held = Held::open(client, target);
    let ended = Sandbox { container: "sandbox-0", ..Sandbox::of(mesh, "client") };
    Plugin::of(mesh, 1).call("DEL", &ended).unwrap().unwrap();
    echo(client, target);
    held.still_works(SECRET);
    assert!(mesh.daemon(1).serves(&Mesh::uid("client")));
    assert_encrypted(&capture.stop().unwrap(), &client.ips(), SECRET);
}

/// Catches: a pod whose new sandbox the plugin was never told of, in plaintext for ever and shown as enrolled.
#[test]
fn a_pod_that_moved_unnoticed_is_found_again() {
    let cluster = Cluster::start(&["client spare"]);
    let mesh = &cluster.mesh;
    cluster.api.delete("v1", "pods", "default", "spare");
    Plugin::of(mesh, 1).call("ADD", &Sandbox::of(mesh, "client")).unwrap().unwrap();
    cluster.label(Some("ambient"));
    Plugin::of(mesh, 1).call("ADD", &Sandbox::of(mesh, "client")).unwrap().unwrap();
    cluster.until(1, "client", true);
    let _moved = Container::start(mesh.pod("spare"), &uid_of(mesh, "client")).unwrap();
    cluster.api.put(pod(mesh, 1, "client", &mesh.pod("spare").ips())).unwrap();
    eventually("it is served where it is", || {
        let served: Vec<_> = mesh.daemon(1).admin("/pods").ok()?.as_array()?.clone();
        let ip = mesh.pod("spare").ips()[0].to_string();
        (served.len() == 1 && served[0].to_string().contains(&ip)).then_some(())
    });
    cluster.until(1, "client", true);
}

/// Catches: pods that left the mesh while no daemon was there, closed for ever because of a pod that cannot be placed.
#[test]
fn a_pod_that_cannot_be_placed_keeps_no_former_pod_closed() {
    let mut cluster = Cluster::start(&["leaver", "server"]);
    cluster.label(Some("ambient"));
    cluster.until(1, "leaver", true);
    let target = cluster.mesh.address("server", 0, 8080);
    let _server = Server::start(cluster.mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let leaver = cluster.mesh.pod("leaver").place.clone();
    cluster.mesh.take_daemon(1).unwrap().kill().unwrap();
    let mut left = pod(&cluster.mesh, 1, "leaver", &cluster.mesh.pod("leaver").ips());
    left["metadata"]["labels"]["istio.io/dataplane-mode"] = json!("none");
    cluster.api.put(left).unwrap();
    // It should have the address that the other has, which may be the one that it had as a pod of the mesh.
    cluster.api.put(pod(&cluster.mesh, 1, "lost", &cluster.mesh.pod("leaver").ips())).unwrap();
    assert!(leaver.run(move || Dial::to(target).exchange(SECRET)).is_err(), "closed while nobody serves it");
    cluster.mesh.start_daemon(1).unwrap();
    eventually("it is missed", || cluster.problem("lost"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(leaver.run(move || Dial::to(target).exchange(SECRET)).is_err(), "it may be the lost one");
    cluster.api.put(pod(&cluster.mesh, 1, "lost", &cluster.mesh.node(1).daemon_ips())).unwrap();
    eventually("it is let go", || leaver.run(move || Dial::to(target).exchange(SECRET)).ok());
    assert!(cluster.problem("lost").is_some());
}
