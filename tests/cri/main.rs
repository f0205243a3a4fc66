//! The image that is shipped, in pods under containerd and runc, on two nodes, as the chart has them. `cargo xtask test
//! --cri` makes the image, names it in `ZTUNNEL_IMAGE_ARCHIVE` and runs this as root.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod cgroups;
mod cluster;
mod manifest;
mod pods;
mod runtime;

use std::{env, path::PathBuf};

use serde_json::{Value, json};
use testkit::{
    capture::{Capture, Keep, Recording},
    kubernetes::namespace,
};

use crate::{
    cluster::{APPLICATION, Cluster, eventually},
    pods::Pod,
};

/// Written by the server; whoever sees it on the wire has read plaintext.
const MARKER: &str = "nobody-between-the-nodes-reads-this";

fn image() -> PathBuf {
    let archive = env::var_os("ZTUNNEL_IMAGE_ARCHIVE");
    archive.expect("ZTUNNEL_IMAGE_ARCHIVE names no image; run: cargo xtask test --cri").into()
}

async fn server(cluster: &Cluster) -> Pod {
    cluster.run(2, ("default", "server"), &[APPLICATION, "serve", "0.0.0.0:8080", MARKER]).await.unwrap()
}

/// What a pod's connection to the server brings, and what the wire carried meanwhile.
async fn get(cluster: &Cluster, client: &mut Pod, address: &str) -> (anyhow::Result<String>, Recording) {
    let capture = Capture::start(cluster.topology.underlay(), "node1", Keep::Everything).unwrap();
    let page = client.exec(&[APPLICATION, "get", address]).await;
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    (page, recording)
}

#[track_caller]
fn assert_encrypted(recording: &Recording) {
    assert!(!recording.contains(MARKER.as_bytes()), "the wire carried the payload in clear");
    assert!(!recording.tunnels().is_empty(), "no TLS connection was seen");
}

/// Whether a node's daemon serves this pod.
async fn serves(daemon: &mut Pod, name: &str) -> bool {
    let Ok(told) = daemon.exec(&["/usr/local/bin/ztunnel", "pods", "--json"]).await else { return false };
    let pods: Value = serde_json::from_str(&told).unwrap_or_default();
    let ends = format!("/{name}");
    let is_served =
        |pod: &Value| pod["uid"].as_str().is_some_and(|uid| uid.ends_with(&ends)) && pod["problem"].is_null();
    pods.as_array().is_some_and(|pods| pods.iter().any(is_served))
}

/// From `helm install` to `helm uninstall`, with what the chart says and nothing else: if a capability were missing in it,
/// or a mount, a variable or a file, or the image lacked something, no pod would be enrolled.
#[tokio::test(flavor = "multi_thread")]
async fn the_chart_s_pods_make_a_mesh_of_real_pods_and_leave_nothing_behind() {
    let mut cluster = Cluster::start(&image()).await.unwrap();
    let server = server(&cluster).await;
    let address = format!("{}:8080", server.ip);
    let mut client = cluster.idle(1, ("default", "client")).await.unwrap();
    eventually("the server answers", async || get(&cluster, &mut client, &address).await.0.is_ok())
        .await
        .unwrap();
    let (page, recording) = get(&cluster, &mut client, &address).await;
    assert!(page.unwrap().contains(MARKER));
    assert!(recording.contains(MARKER.as_bytes()), "before the mesh, plaintext is seen: the capture works");

    let controller = cluster.controller(2).await.unwrap();
    let mut daemons = [cluster.daemon(1).await.unwrap(), cluster.daemon(2).await.unwrap()];
    let (page, recording) = get(&cluster, &mut client, &address).await;
    assert!(page.unwrap().contains(MARKER));
    assert!(recording.contains(MARKER.as_bytes()), "nobody is labelled yet");

    cluster.api.put(namespace("default", Some("ambient"))).unwrap();
    for (daemon, name) in daemons.iter_mut().zip(["client", "server"]) {
        eventually("pods that run join", async || serves(daemon, name).await).await.unwrap();
    }
    let (page, recording) = get(&cluster, &mut client, &address).await;
    assert!(page.unwrap().contains(MARKER));
    assert_encrypted(&recording);
    probes_pass_where_plaintext_does_not(&cluster, &address).await;
    before_its_first_process(&cluster, &mut daemons[0], &address).await;
    without_a_daemon(&cluster, &mut daemons[0], &mut client, &address).await;

    // `helm uninstall`: the controller and the daemons go, then the hook's pods come.
    for pod in daemons.into_iter().chain([controller]) {
        pod.remove().await.unwrap();
    }
    for node in [1, 2] {
        assert!(cluster.chained(node), "without a daemon, pods of the mesh have to wait");
        assert_eq!(cluster.uninstall(node).await.unwrap(), 0);
        assert!(!cluster.chained(node), "the plugin is still in the chain");
        assert_eq!(cluster.left(node), [""; 0], "files of ours");
    }
    let (page, recording) = get(&cluster, &mut client, &address).await;
    assert_eq!(page.unwrap().trim(), MARKER);
    assert!(recording.contains(MARKER.as_bytes()), "the pods talk as if there had never been a mesh");
    let mut after = cluster.idle(1, ("default", "after")).await.unwrap();
    get(&cluster, &mut after, &address).await.0.expect("a pod starts and talks");
}

/// The daemon has found the kubelet's cgroup by itself.
async fn probes_pass_where_plaintext_does_not(cluster: &Cluster, address: &str) {
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "strict", "namespace": "default" }, "spec": { "mtls": { "mode": "STRICT" } },
    });
    cluster.api.put(strict).unwrap();
    let is_refused = async || cluster.node_gets(2, false, address).is_err();
    eventually("plaintext from the node is refused", is_refused).await.unwrap();
    let probe = cluster.node_gets(2, true, address).expect("a probe of the kubelet's");
    assert_eq!(probe.trim(), MARKER);
    assert!(cluster.api.delete("security.istio.io/v1", "peerauthentications", "default", "strict"));
}

/// A pod whose one process connects as the first thing that it does, and ends.
async fn before_its_first_process(cluster: &Cluster, daemon: &mut Pod, address: &str) {
    assert!(cluster.chained(1), "the daemon installs its plugin");
    let capture = Capture::start(cluster.topology.underlay(), "node1", Keep::Everything).unwrap();
    let mut hasty = cluster.run(1, ("default", "hasty"), &[APPLICATION, "get", address]).await.unwrap();
    let code = hasty.end().await.unwrap();
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    let log = cluster.node(1).logs_of("hasty");
    assert!(code == 0 && log.contains(MARKER), "it ended with {code}: {log}");
    assert_encrypted(&recording);
    assert!(recording.plaintext_syns_from(hasty.ip.parse().unwrap()).is_empty(), "it was not yet enrolled");
    assert!(serves(daemon, "hasty").await, "its sandbox is there");
    hasty.remove().await.unwrap();
    eventually("it is let go", async || !serves(daemon, "hasty").await).await.unwrap();
}

/// The daemon's container ends: its pods are fail-closed, by what is pinned on the node; those of the mesh that are to start
/// wait, all others start.
async fn without_a_daemon(cluster: &Cluster, daemon: &mut Pod, client: &mut Pod, address: &str) {
    daemon.stop_container(2).await.unwrap();
    let (refused, recording) = get(cluster, client, address).await;
    assert!(refused.is_err(), "without a daemon: {refused:?}");
    assert!(!recording.contains(MARKER.as_bytes()));
    let waits = cluster.idle(1, ("default", "waits")).await.err().expect("nobody enrols it");
    assert!(format!("{waits:#}").contains("pods of namespace default are in the mesh"), "{waits:#}");
    cluster.idle(1, ("plain", "stranger")).await.expect("it is not in the mesh").remove().await.unwrap();
    cluster.restart_daemon(1, daemon).await.unwrap();
    let (page, recording) = get(cluster, client, address).await;
    assert_eq!(page.unwrap().trim(), MARKER);
    assert_encrypted(&recording);
    let mut waited = cluster.idle(1, ("default", "waits")).await.expect("the kubelet tries again");
    let (page, recording) = get(cluster, &mut waited, address).await;
    assert_eq!(page.unwrap().trim(), MARKER);
    assert_encrypted(&recording);
}
