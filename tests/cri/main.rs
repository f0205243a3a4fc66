//! The image that is shipped, as a pod under containerd and runc, on two nodes with real pods. `cargo xtask test --cri`
//! makes the image, names it in `ZTUNNEL_IMAGE_ARCHIVE` and runs this as root.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod mesh;
mod pods;
mod runtime;

use std::{env, path::PathBuf, time::Duration};

use testkit::{
    Topology,
    capture::{Capture, Keep},
};
use tokio::time::sleep;

use crate::{mesh::Mesh, pods::Pod};

/// Written by the server; whoever sees it on the wire has read plaintext.
const MARKER: &str = "nobody-between-the-nodes-reads-this";

fn image() -> PathBuf {
    let archive = env::var_os("ZTUNNEL_IMAGE_ARCHIVE");
    archive.expect("ZTUNNEL_IMAGE_ARCHIVE names no image; run: cargo xtask test --cri").into()
}

/// The server may have only begun to start.
async fn first_answer(client: &mut Pod, url: &str) -> String {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        if let Ok(page) = client.exec(&["busybox", "wget", "-q", "-T", "10", "-O", "-", url]).await {
            return page;
        }
        sleep(Duration::from_millis(100)).await;
    }
    String::new()
}

/// The daemon's container has the chart's own security context and mounts. If a capability were missing there, or its
/// root file system, /proc/sys or the runtime's seccomp profile stood in the way, no pod would be enrolled.
#[tokio::test(flavor = "multi_thread")]
async fn the_image_carries_real_pods_traffic_in_mutual_tls_with_the_chart_s_privileges() {
    let topology = Topology::build(&["", ""]).unwrap();
    let mut mesh = Mesh::start(&topology, &image()).await.unwrap();
    let server = mesh.server.ip.clone();
    let url = format!("http://{server}:8080/");

    let capture = Capture::start(topology.underlay(), "node1", Keep::Everything).unwrap();
    assert!(first_answer(&mut mesh.client, &url).await.contains(MARKER));
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    assert!(recording.contains(MARKER.as_bytes()), "before the mesh, plaintext is seen: the capture works");

    mesh.enrol(&topology).await.unwrap();
    let capture = Capture::start(topology.underlay(), "node1", Keep::Everything).unwrap();
    assert!(
        mesh.client
            .exec(&["busybox", "wget", "-q", "-T", "10", "-O", "-", &url])
            .await
            .unwrap()
            .contains(MARKER)
    );
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    assert!(!recording.contains(MARKER.as_bytes()), "the wire carried the payload in clear");
    assert!(!recording.tunnels().is_empty(), "no TLS connection was seen");

    // The daemon's container ends: its pods are fail-closed, and what keeps them so is pinned, not in the container.
    mesh.daemons[0].stop_container(2).await.unwrap();
    let refused = mesh.client.exec(&["busybox", "wget", "-q", "-T", "5", "-O", "-", &url]).await;
    assert!(refused.is_err(), "without a daemon: {refused:?}");
    mesh.restart_daemon(&topology, 0).await.unwrap();
    assert!(
        mesh.client
            .exec(&["busybox", "wget", "-q", "-T", "10", "-O", "-", &url])
            .await
            .unwrap()
            .contains(MARKER)
    );
    mesh.remove().await.unwrap();
}
