//! The demo itself.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};
use serde_json::Value;
use testkit::{Mesh, MeshPlan, capture::Recording, eventually, family_of};

use super::{
    report::{Report, size},
    traffic::{self, Request, Server},
};

const NODES: [&str; 2] = ["client neighbour", "server other"];

pub(crate) fn run(daemon: &Path, keep: bool) -> Result<()> {
    // The marker of this run and of no other.
    let marker = format!("secret-{:x}-{:x}", std::process::id(), std::time::UNIX_EPOCH.elapsed()?.as_nanos());
    let mut report = Report::default();
    let mut mesh = MeshPlan::new(&NODES).binary(daemon.to_owned()).build()?;
    println!("\nTwo nodes, two pods each, on this machine:");
    println!("  node 1: client, neighbour ── 10.0.0.0/24, fd00::/64 ── node 2: server, other");
    let server = Server::start(&mesh, &marker)?;
    without_the_mesh(&mesh, &mut report, &marker)?;
    mesh.start_daemon(1)?;
    mesh.start_daemon(2)?;
    with_the_mesh(&mesh, &mut report, &marker, &server)?;
    memory(&mesh, &mut report)?;
    report.close()?;
    if keep {
        stay(&mesh)?;
    }
    Ok(())
}

fn without_the_mesh(mesh: &Mesh, report: &mut Report, marker: &str) -> Result<()> {
    report.heading("Without the mesh, on the wire between the nodes:");
    let (requests, recording) = traffic::ask(mesh, marker)?;
    let in_clear = |text: &str| recording.contains(text.as_bytes());
    report
        .claim(requests.iter().all(|r| r.answer.contains(marker)), "curl got its answer over IPv4 and IPv6");
    report.claim(
        in_clear(&format!("Secret: {marker}")),
        &format!("the request's `Secret: {marker}` is there in clear"),
    );
    report.claim(in_clear(&format!("the answer holds the {marker}")), "and so is the answer");
    Ok(())
}

fn with_the_mesh(mesh: &Mesh, report: &mut Report, marker: &str, server: &Server) -> Result<()> {
    let earlier = server.logged();
    let (requests, recording) = traffic::ask(mesh, marker)?;
    for request in &requests {
        let client = mesh.pod("client").ips()[usize::from(request.target.is_ipv6())];
        let kept = request.client.ip() == client && server.saw(client, earlier);
        connection(mesh, report, request, marker);
        report.claim(kept, &format!("the server saw the client's own address, {client}"));
    }
    wire(mesh, report, &recording, marker);
    Ok(())
}

fn connection(mesh: &Mesh, report: &mut Report, request: &Request, marker: &str) {
    report.heading(&format!("With the mesh, {}: {}", family_of(request.target.ip()), request.command));
    report.claim(request.answer.contains(marker), "curl got the same answer");
    let lines =
        [(1, "outbound"), (2, "inbound")].map(|(node, direction)| line_of(mesh, node, direction, request));
    let [outbound, inbound] = &lines;
    let target = request.target.to_string();
    report.claim(
        lines.iter().all(|line| line["path"] == "hbone" && line["dst.hbone_addr"] == target.as_str()),
        &format!(
            "path: client -> ztunnel on node 1 -> HBONE to {} -> ztunnel on node 2 -> {target}",
            text(&outbound["dst.addr"])
        ),
    );
    for (party, key) in [("client", "src.identity"), ("server", "dst.identity")] {
        let identity = Mesh::identity(party);
        report.claim(
            lines.iter().all(|line| line[key] == identity.as_str()),
            &format!("{party} proved to be {identity}"),
        );
    }
    report.found(numbers(outbound, inbound), "both daemons agree on the bytes");
}

/// The access log's line about the request.
fn line_of(mesh: &Mesh, node: usize, direction: &str, request: &Request) -> Value {
    eventually(&format!("node {node} logs {}", request.command), || {
        let lines = mesh.daemon(node).access_log().ok()?;
        let target = request.target.to_string();
        lines
            .into_iter()
            .rev()
            .find(|line| line["direction"] == direction && line["dst.hbone_addr"] == target.as_str())
    })
}

fn numbers(outbound: &Value, inbound: &Value) -> Result<String> {
    let count = |line: &Value, key: &str| line[key].as_u64().with_context(|| format!("no {key} in {line}"));
    let (sent, received) = (count(outbound, "bytes_sent")?, count(outbound, "bytes_recv")?);
    // Each daemon counts from where its own pod stands.
    ensure!(
        sent == count(inbound, "bytes_recv")? && received == count(inbound, "bytes_sent")?,
        "{outbound}, {inbound}"
    );
    ensure!(sent > 0 && received > 0, "{outbound}");
    Ok(format!("{} to the server, {} back, in {}", size(sent), size(received), text(&outbound["duration"])))
}

fn wire(mesh: &Mesh, report: &mut Report, recording: &Recording, marker: &str) {
    report.heading("With the mesh, on the wire between the nodes:");
    let complete = recording
        .complete()
        .map(|()| format!("the capture is complete: {} segments, none lost", recording.segments.len()));
    report.found(complete, "the capture is complete");
    report.claim(!recording.contains(marker.as_bytes()), &format!("`{marker}` is nowhere"));
    let tunnels = recording.tunnels();
    let encrypted: usize = tunnels.iter().map(|tunnel| tunnel.encrypted_bytes).sum();
    report.claim(
        tunnels.len() == 2 && tunnels.iter().all(testkit::capture::tls::Connection::is_tls_1_3),
        &format!(
            "{} connections to port 15008, TLS 1.3 and nothing else, {} encrypted",
            tunnels.len(),
            size(encrypted as u64)
        ),
    );
    let plain = mesh.pod("client").ips().iter().flat_map(|ip| recording.plaintext_syns_from(*ip)).count();
    report.claim(plain == 0, "the client's node tried no other port");
}

fn memory(mesh: &Mesh, report: &mut Report) -> Result<()> {
    report.heading("Memory:");
    for (node, daemon) in (1..).zip(mesh.daemons()) {
        let pods = mesh.node(node).pods.len();
        let served = daemon.metric("workload_manager_active_proxy_count", &[])?;
        let text = format!("the daemon of node {node} serves {pods} pods in {}", size(daemon.memory()?));
        report.claim(served == pods as f64, &text);
    }
    Ok(())
}

/// Leaves everything up until Ctrl-C.
fn stay(mesh: &Mesh) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let client = mesh.pod("client");
    println!("\nAll of it stays up. In another terminal, as root:");
    println!("  enter a pod      ip netns exec {} bash", client.netns_name());
    println!(
        "                   (to be treated as the pod: echo $$ > {}/cgroup.procs)",
        client.cgroup().display()
    );
    println!(
        "  ask a daemon     ip netns exec {} curl -s 127.0.0.1:15000/connections",
        mesh.daemon(1).place().netns_name()
    );
    println!("                   also /config_dump, and :15020/metrics");
    println!("  its files        {}", mesh.directory().display());
    println!("Ctrl-C removes it.");
    signals.wait()?;
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
