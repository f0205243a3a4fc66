//! The CNI plugin: the real binary, run as a container runtime runs it, against a real daemon.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    api_server::ApiServer,
    capture::{Capture, Keep},
    client::Dial,
    eventually,
    kubernetes::{Plugin, Sandbox, api_server, namespace, pod},
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, assert_encrypted, flood_routes};

const SECRET: &[u8] = b"the payload that nobody else may read";

struct Cluster {
    mesh: Mesh,
    api: ApiServer,
}

impl Cluster {
    /// The namespace `default` is in the mesh. All pods are scheduled, and none runs.
    fn start(nodes: &[&str]) -> Self {
        let mut mesh = MeshPlan::new(nodes).kubernetes().build().unwrap();
        let api = api_server(&mesh).unwrap();
        api.put(namespace("default", Some("ambient"))).unwrap();
        api.put(namespace("plain", None)).unwrap();
        for number in 1..=nodes.len() {
            for name in mesh.node(number).pods.iter().map(|pod| pod.name()) {
                api.put(pod(&mesh, number, name, &[])).unwrap();
            }
            mesh.start_daemon(number).unwrap();
        }
        Self { mesh, api }
    }

    fn plugin(&self) -> Plugin {
        Plugin::of(&self.mesh, 1)
    }

    fn add(&self, node: usize, name: &str) -> Result<String, Value> {
        Plugin::of(&self.mesh, node).call("ADD", &Sandbox::of(&self.mesh, name)).unwrap()
    }
}

#[track_caller]
fn echo(from: &Place, target: SocketAddr) {
    assert_eq!(from.run(move || Dial::to(target).exchange(SECRET)).expect("an echo"), SECRET);
}

/// Catches: a pod whose first connection leaves in plaintext; a result of the plugins before that is changed; a pod that goes
/// and is held on to.
#[test]
fn a_pod_is_in_the_mesh_before_it_starts() {
    let cluster = Cluster::start(&["client", "server"]);
    let Cluster { mesh, .. } = &cluster;
    for (node, name) in [(1, "client"), (2, "server")] {
        assert!(!mesh.daemon(node).serves(&Mesh::uid(name)), "it does not run");
        let printed = cluster.add(node, name).expect("the pod may start");
        assert_eq!(printed, Plugin::result(&mesh.pod(name).ips()).to_string(), "as it came, to the letter");
        assert!(mesh.daemon(node).serves(&Mesh::uid(name)), "it starts, so it is served");
    }
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
        echo(mesh.pod("client"), mesh.address("server", family, 8080));
        assert_encrypted(&capture.stop().unwrap(), &mesh.pod("client").ips(), SECRET);
    }
    let plugin = cluster.plugin();
    let sandbox = Sandbox::of(mesh, "client");
    plugin.call("CHECK", &sandbox).unwrap().expect("it is as it should be");
    let older = Sandbox { container: "sandbox-0", ..sandbox.clone() };
    plugin.call("DEL", &older).unwrap().unwrap();
    assert!(mesh.daemon(1).serves(&Mesh::uid("client")), "a sandbox that it has no longer");
    plugin.call("DEL", &sandbox).unwrap().unwrap();
    eventually("it is let go", || (!mesh.daemon(1).serves(&Mesh::uid("client"))).then_some(()));
    cluster.add(1, "client").expect("it may start again");
    eventually("all is counted", || {
        let enrolled = [("verdict", "enrolled")];
        let count = mesh.daemon(1).metric("ztunnel_cni_plugin_requests_total", &enrolled).unwrap();
        (count == 3.0).then_some(())
    });
}

/// Catches: the mesh in the way of pods that are none of its.
#[test]
fn pods_outside_of_the_mesh_start_untouched() {
    let cluster = Cluster::start(&["client opted-out"]);
    let Cluster { mesh, api } = &cluster;
    let mut opted_out = pod(mesh, 1, "opted-out", &[]);
    opted_out["metadata"]["labels"]["istio.io/dataplane-mode"] = "none".into();
    api.put(opted_out).unwrap();
    eventually("the daemon knows of the label", || cluster.add(1, "opted-out").ok());
    let mut plain = pod(mesh, 1, "client", &[]);
    plain["metadata"]["namespace"] = "plain".into();
    api.delete("v1", "pods", "default", "client");
    api.put(plain).unwrap();
    let sandbox = Sandbox { namespace: "plain", ..Sandbox::of(mesh, "client") };
    cluster.plugin().call("ADD", &sandbox).unwrap().expect("not in the mesh");
    let system = Sandbox { namespace: "kube-system", ..sandbox };
    cluster.plugin().call("ADD", &system).unwrap().expect("never asked about");
    assert_eq!(mesh.daemon(1).admin("/pods").unwrap(), json!([]));
}

/// Catches: plaintext, or a node where nothing starts, while the daemon is away.
#[test]
fn without_the_daemon_pods_of_the_mesh_wait_and_others_start() {
    let mut cluster = Cluster::start(&["client"]);
    let killed = cluster.mesh.take_daemon(1).unwrap();
    eventually("the namespaces are written down", || {
        cluster.mesh.enrolled_namespaces(1).exists().then_some(())
    });
    killed.kill().unwrap();
    let refusal = cluster.add(1, "client").expect_err("nobody enrols it");
    assert_eq!(refusal["code"], 11, "{refusal}");
    assert!(
        refusal["msg"].as_str().unwrap().contains("pods of namespace default are in the mesh"),
        "{refusal}"
    );
    let plain = Sandbox { namespace: "plain", ..Sandbox::of(&cluster.mesh, "client") };
    cluster.plugin().call("ADD", &plain).unwrap().expect("it is not in the mesh");
    cluster.mesh.start_daemon(1).unwrap();
    cluster.add(1, "client").expect("the kubelet tries again");
    assert!(cluster.mesh.daemon(1).serves(&Mesh::uid("client")));
}

/// Catches: one pod that cannot be enrolled, and holds up all that start after it.
#[test]
fn a_stuck_pod_holds_up_no_other() {
    let cluster = Cluster::start(&["client other"]);
    let plugin = cluster.plugin();
    let unknown = Sandbox { name: "unheard-of", ..Sandbox::of(&cluster.mesh, "client") };
    thread::scope(|scope| {
        let stuck = scope.spawn(|| plugin.call("ADD", &unknown).unwrap());
        let begun = Instant::now();
        cluster.add(1, "other").expect("the other starts");
        assert!(begun.elapsed().as_secs() < 4, "it waited: {:?}", begun.elapsed());
        let refusal = stuck.join().unwrap().expect_err("the API server knows nothing of it");
        assert_eq!(refusal["code"], 11, "{refusal}");
        assert!(refusal["msg"].as_str().unwrap().contains("not told of this pod"), "{refusal}");
    });
}

/// Catches: a pod that is known and slow, and holds up all that start after it.
#[test]
fn a_slow_pod_holds_up_no_other() {
    let cluster = Cluster::start(&["slow other third"]);
    let mesh = &cluster.mesh;
    flood_routes(mesh.pod("slow"));
    thread::scope(|scope| {
        let slow = scope.spawn(|| (Instant::now(), cluster.add(1, "slow"), Instant::now()));
        thread::sleep(Duration::from_millis(300));
        for name in ["other", "third"] {
            let begun = Instant::now();
            cluster.add(1, name).expect("it starts");
            assert!(begun.elapsed().as_secs() < 4, "it waited: {:?}", begun.elapsed());
            assert!(mesh.daemon(1).serves(&Mesh::uid(name)));
        }
        assert!(!slow.is_finished(), "it was not slow");
        let (begun, answer, ended) = slow.join().unwrap();
        let refusal = answer.expect_err("it takes too long");
        assert!(refusal["msg"].as_str().unwrap().contains("timed out"), "{refusal}");
        assert!((ended - begun).as_secs() < 12, "after {:?}", ended - begun);
    });
}

/// Catches: a node where nothing starts because its daemon is told nothing any more: neither pods outside of the mesh, nor
/// those from files, nor the next daemon.
#[test]
fn a_daemon_that_is_told_nothing_stops_only_pods_that_may_be_in_the_mesh() {
    let mut cluster = Cluster::start(&["client"]);
    cluster.api.stop();
    eventually("the daemon has noticed", || {
        let connected = cluster.mesh.daemon(1).metric("ztunnel_discovery_connected", &[]).unwrap();
        (connected == 0.0).then_some(())
    });
    let unknown = Sandbox { name: "unheard-of", ..Sandbox::of(&cluster.mesh, "client") };
    let from_a_file = Sandbox { uid: "0123456789abcdef0123456789abcdef".to_owned(), ..unknown.clone() };
    let own = Sandbox { namespace: "ztunnel-system", ..unknown.clone() };
    for pod in [from_a_file, own] {
        let begun = Instant::now();
        cluster.plugin().call("ADD", &pod).unwrap().expect("it is none of the mesh's");
        assert!(begun.elapsed().as_secs() < 4, "it waited: {:?}", begun.elapsed());
    }
    for namespace in ["plain", "made-since"] {
        let pod = Sandbox { namespace, ..unknown.clone() };
        cluster.plugin().call("ADD", &pod).unwrap().expect("as if no daemon were there");
    }
    let refusal = cluster.plugin().call("ADD", &unknown).unwrap().expect_err("it may be in the mesh");
    assert_eq!(refusal["code"], 11, "{refusal}");
    assert_eq!(cluster.mesh.daemon(1).admin("/pods").unwrap(), json!([]));
}

/// Catches: pods that cannot start, or start outside of the mesh, while a newer daemon takes over.
#[test]
fn pods_start_while_a_newer_daemon_takes_over() {
    let mut cluster = Cluster::start(&["first second third"]);
    cluster.add(1, "first").unwrap();
    let newer = cluster.mesh.launch_beside(1).unwrap();
    cluster.add(1, "second").expect("while there are two");
    newer.wait_until_ready().unwrap();
    let mut older = cluster.mesh.take_daemon(1).unwrap();
    older.terminate().unwrap();
    cluster.mesh.put_daemon(1, newer);
    cluster.add(1, "third").expect("while the older drains");
    assert!(older.wait(Duration::from_secs(30)).unwrap().success());
    assert!(cluster.mesh.daemon(1).serves(&Mesh::uid("third")));
    cluster.plugin().call("DEL", &Sandbox::of(&cluster.mesh, "third")).unwrap().unwrap();
    assert!(cluster.mesh.plugin_socket(1).exists(), "the older took the newer's socket away");
}

/// Catches: a plugin that is not where the runtime looks, one that another installer has undone, and what is left of it.
#[test]
fn the_daemon_keeps_the_plugin_installed() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let others = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}"#;
    for directory in ["net.d", "bin"] {
        fs::create_dir(path(directory)).unwrap();
    }
    let list = path("net.d/10-pods.conflist");
    fs::write(&list, others).unwrap();
    let plugin = json!({ "plugin": {
        "socket": path("cni.sock"),
        "enrolledNamespaces": path("net.d/ztunnel/enrolled-namespaces"),
        "install": { "binaryDirectory": path("bin"), "configurationDirectory": path("net.d") },
    }});
    let mut mesh = MeshPlan::new(&["client"]).kubernetes().setting("cni", plugin).build().unwrap();
    let api = api_server(&mesh).unwrap();
    api.put(namespace("default", Some("ambient"))).unwrap();
    mesh.start_daemon(1).unwrap();
    let entry = || {
        let list: Value = serde_json::from_str(&fs::read_to_string(&list).ok()?).ok()?;
        list["plugins"].as_array()?.iter().find(|plugin| plugin["type"] == "ztunnel-cni").cloned()
    };
    let found = eventually("it is in the chain", entry);
    assert_eq!(found["socket"].as_str(), path("cni.sock").to_str());
    // Else a node whose daemon is gone could never start the next one.
    for never_waits in ["kube-system", "kube-public", "ztunnel-system"] {
        assert!(found["exemptNamespaces"].as_array().unwrap().contains(&never_waits.into()), "{found}");
    }
    for name in ["bin/ztunnel-cni", "net.d/ztunnel/enrolled-namespaces", "cni.sock"] {
        assert!(path(name).exists(), "{name}: the runtime runs the plugin from now on");
    }
    fs::write(&list, others).unwrap();
    eventually("it is in the chain again", entry);
    mesh.take_daemon(1).unwrap().kill().unwrap();
    assert!(entry().is_some(), "without a daemon, pods of the mesh have to wait");
    let mut unenrol = Command::new(mesh.binary());
    unenrol.args(["unenrol", "--all", "--bpf-dir"]).arg(mesh.bpf_directory(1));
    unenrol.arg("--cni-configurations").arg(path("net.d")).arg("--cni-binaries").arg(path("bin"));
    assert!(mesh.node(1).host.output(unenrol).unwrap().status.success());
    assert!(entry().is_none());
    let left: Vec<_> =
        fs::read_dir(path("net.d")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["10-pods.conflist"]);
    assert_eq!(fs::read_dir(path("bin")).unwrap().count(), 0);
    assert!(!path("cni.sock").exists());
}

/// Catches: a plugin that is configured no longer and stays on the node, where every pod of the mesh waits for its answer.
#[test]
fn a_plugin_that_is_configured_no_longer_goes() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    for directory in ["net.d", "bin"] {
        fs::create_dir(path(directory)).unwrap();
    }
    let entry = r#"{"type":"ztunnel-cni","socket":"/nowhere","enrolledNamespaces":"/nowhere/too"}"#;
    let list = format!(r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[{{"type":"bridge"}},{entry}]}}"#);
    fs::write(path("net.d/10-pods.conflist"), list).unwrap();
    fs::write(path("bin/ztunnel-cni"), "the plugin").unwrap();
    let uninstall = json!({ "uninstall": {
        "binaryDirectory": path("bin"), "configurationDirectory": path("net.d"),
    }});
    let mut mesh = MeshPlan::new(&["client"]).kubernetes().setting("cni", uninstall).build().unwrap();
    let api = api_server(&mesh).unwrap();
    api.put(namespace("default", Some("ambient"))).unwrap();
    mesh.start_daemon(1).unwrap();
    eventually("it is gone", || {
        let list = fs::read_to_string(path("net.d/10-pods.conflist")).unwrap();
        (!list.contains("ztunnel-cni") && !path("bin/ztunnel-cni").exists()).then_some(())
    });
}
