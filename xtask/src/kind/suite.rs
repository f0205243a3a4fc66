//! What must hold in a cluster: traffic between nodes, policy, an upgrade under traffic, nothing left behind.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::cluster::Cluster;

const CHART: &str = "deploy/helm/ztunnel";
const NAMESPACE: &str = "ztunnel-system";
const INSTALLED: [&str; 6] = ["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "300s"];
/// kind's kubelet is there: its probes must reach pods in a strict namespace.
const VALUES: [&str; 2] = ["--set", "daemon.kubeletCgroup=kubelet.slice/kubelet.service"];
const POLICY: &str = "deploy/kind/policy.yaml";
const APPLICATIONS: &str = "deploy/kind/applications.yaml";

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    cluster.helm(&[&["install", "ztunnel", CHART][..], &INSTALLED, &VALUES].concat())?;
    cluster.kubectl(&["apply", "--filename", APPLICATIONS])?;
    for name in ["client", "stranger", "server"] {
        cluster.kubectl(&[
            "rollout",
            "status",
            &format!("deployment/{name}"),
            "--namespace",
            "shop",
            "--timeout=180s",
        ])?;
    }
    eventually("plaintext before the namespace is labelled", || call(cluster, "client"))?;
    check("pods that run are enrolled without a restart", || enrols(cluster))?;
    check("traffic between nodes is mutual TLS", || is_mutual_tls(cluster))?;
    check("policy decides by identity", || policy(cluster))?;
    check("an upgrade breaks no new connection", || upgrade(cluster))?;
    check("uninstalling leaves nothing behind", || uninstall(cluster))
}

fn check(what: &str, test: impl FnOnce() -> Result<()>) -> Result<()> {
    test().with_context(|| what.to_owned())?;
    println!("  ✓ {what}");
    Ok(())
}

/// Fails after a minute and a half.
fn eventually(what: &str, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
    const ATTEMPTS: usize = 90;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match ask() {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
        sleep(Duration::from_secs(1));
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("never tried"))).with_context(|| what.to_owned())
}

fn call(cluster: &Cluster, from: &str) -> Result<()> {
    let page = cluster.kubectl(&[
        "exec",
        "--namespace",
        "shop",
        &format!("deployment/{from}"),
        "--",
        "wget",
        "-q",
        "-T",
        "5",
        "-O",
        "-",
        "http://server:8080/",
    ])?;
    ensure!(page.contains("served"), "another page: {page}");
    Ok(())
}

/// What the daemon beside the server says of its connections.
fn ask_daemons(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let pods = cluster.kubectl(&[
        "get",
        "pods",
        "--namespace",
        NAMESPACE,
        "--selector",
        "app.kubernetes.io/component=daemon",
        "--output",
        "name",
    ])?;
    let mut all = String::new();
    for pod in pods.split_whitespace() {
        let question = [&["exec", "--namespace", NAMESPACE, pod, "--", "ztunnel"][..], arguments].concat();
        all += &cluster.kubectl(&question)?;
    }
    Ok(all)
}

fn enrols(cluster: &Cluster) -> Result<()> {
    let before = pods(cluster)?;
    cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode=ambient"])?;
    eventually("all three pods are enrolled", || {
        let list = ask_daemons(cluster, &["pods", "--json", "-n", "shop"])?;
        let enrolled = list.matches("\"enrolled\":true").count() + list.matches("\"enrolled\": true").count();
        ensure!(enrolled == 3, "{enrolled} are: {list}");
        Ok(())
    })?;
    ensure!(pods(cluster)? == before, "pods were made anew");
    Ok(())
}

fn pods(cluster: &Cluster) -> Result<String> {
    let ask =
        "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "pods", "--namespace", "shop", "--output", ask])
}

fn is_mutual_tls(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["apply", "--filename", "deploy/kind/strict.yaml"])?;
    eventually("a strict server takes the client's connection", || call(cluster, "client"))?;
    // From a pod that is not in the mesh, it must be refused.
    eventually("plaintext is refused", || {
        let answer = cluster.kubectl(&[
            "exec",
            "--namespace",
            "outside",
            "deployment/plain",
            "--",
            "wget",
            "-q",
            "-T",
            "5",
            "-O",
            "-",
            "http://server.shop:8080/",
        ]);
        ensure!(answer.is_err(), "it came through");
        Ok(())
    })
}

fn policy(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["apply", "--filename", POLICY])?;
    eventually("the stranger is refused", || {
        ensure!(call(cluster, "stranger").is_err(), "it came through");
        Ok(())
    })?;
    call(cluster, "client").context("the client is allowed")
}

fn upgrade(cluster: &Cluster) -> Result<()> {
    let script = "i=0; while [ $i -lt 60 ]; do wget -q -T 5 -O /dev/null http://server:8080/ || echo failed; i=$((i+1)); sleep 1; done";
    let calls = std::thread::scope(|scope| {
        let calls = scope.spawn(|| {
            cluster.kubectl(&["exec", "--namespace", "shop", "deployment/client", "--", "sh", "-c", script])
        });
        let upgrade =
            [&["upgrade", "ztunnel", CHART][..], &INSTALLED, &VALUES, &["--set", "logLevel=debug"]].concat();
        cluster.helm(&upgrade)?;
        calls.join().map_err(|_| anyhow::anyhow!("the calls panicked"))?
    })?;
    let failed = calls.matches("failed").count();
    ensure!(failed == 0, "{failed} of 60 connections failed");
    Ok(())
}

fn uninstall(cluster: &Cluster) -> Result<()> {
    cluster.helm(&["uninstall", "ztunnel", "--namespace", NAMESPACE, "--wait", "--timeout", "400s"])?;
    for node in cluster.nodes()? {
        let pins = cluster.on_node(&node, &["sh", "-c", "ls /sys/fs/bpf | grep ztunnel || true"])?;
        let plugin =
            cluster.on_node(&node, &["sh", "-c", "grep -rl ztunnel /etc/cni/net.d /opt/cni/bin || true"])?;
        for (what, left) in [("pins", pins), ("CNI", plugin)] {
            if !left.trim().is_empty() {
                bail!("{what} on {node}: {left}");
            }
        }
    }
    call(cluster, "client").context("pods talk plainly")?;
    let left = cluster.kubectl(&[
        "get",
        "all,roles,rolebindings,serviceaccounts",
        "--namespace",
        NAMESPACE,
        "--output",
        "name",
    ])?;
    let ours: Vec<_> = left.split_whitespace().filter(|name| name.contains("ztunnel")).collect();
    ensure!(ours.is_empty(), "in {NAMESPACE}: {ours:?}");
    Ok(())
}
