//! Two nodes with containerd, an API server outside of them, and the chart's own pods: what a cluster has where one says
//! `helm install`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use image::Processor;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Topology,
    api_server::{ApiServer, Reviewed},
    kubernetes::namespace,
};
use tokio::time::sleep;

use crate::{
    manifest::{Given, Manifests},
    pods::{Container, Identity, Pod},
    runtime::{self, Containerd, NETWORK, SANDBOX_IMAGE},
};

pub(crate) const APPLICATION: &str = "/usr/local/bin/application";
pub(crate) const OWN: &str = chart::NAMESPACE;
/// What every node has, besides what is below its home.
const MADE: [&str; 1] = ["/var/run/ztunnel"];

pub(crate) struct Cluster {
    // In order of destruction: all that runs before what it runs in.
    nodes: Vec<Containerd>,
    pub(crate) api: ApiServer,
    pub(crate) topology: Topology,
    home: TempDir,
    /// The controller's, once it runs.
    hosts: String,
}

impl Cluster {
    pub(crate) async fn start(image: &Path) -> Result<Self> {
        let topology = Topology::build(&["", ""])?;
        let api = ApiServer::start(topology.outside_ips()[0], Some(&topology.outside))?;
        for name in ["default", "plain", OWN, "kube-system"] {
            api.put(namespace(name, None))?;
        }
        let home = tempfile::Builder::new().prefix(&format!("{}-cri.", topology.name())).tempdir()?;
        let workload = workload_image(home.path())?;
        let mut nodes = Vec::new();
        for node in &topology.nodes {
            let name = format!("node{}", node.number);
            api.put(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } }))?;
            let runtime = Containerd::start(node, &home.path().join(name), &MADE).await?;
            runtime.import(image)?;
            runtime.import(&workload)?;
            nodes.push(runtime);
        }
        Ok(Self { nodes, api, topology, home, hosts: "127.0.0.1 localhost\n".to_owned() })
    }

    pub(crate) fn node(&self, number: usize) -> &Containerd {
        &self.nodes[number - 1]
    }

    /// As `kubectl run`: known to the API server before it starts, and with its address afterwards.
    pub(crate) async fn run(&self, node: usize, identity: (&str, &str), command: &[&str]) -> Result<Pod> {
        let (namespace, name) = identity;
        let identity = Identity {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            account: name.to_owned(),
            node: format!("node{node}"),
        };
        let container = Container {
            image: SANDBOX_IMAGE.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..Container::default()
        };
        let mut pod = self.schedule(node, &identity, false).await?;
        pod.start(&container).await?;
        Ok(pod)
    }

    pub(crate) async fn idle(&self, node: usize, identity: (&str, &str)) -> Result<Pod> {
        self.run(node, identity, &[APPLICATION]).await
    }

    async fn schedule(&self, node: usize, identity: &Identity, host_pid: bool) -> Result<Pod> {
        self.api.put(identity.object(None))?;
        let pod = Pod::sandbox(self.node(node), identity, host_pid).await?;
        self.api.put(identity.object(Some(&pod.ip)))?;
        Ok(pod)
    }

    /// The first of the pods of the chart's Deployment.
    pub(crate) async fn controller(&mut self, node: usize) -> Result<Pod> {
        let pod = self.own(node, ("Deployment", "ztunnel-controller"), "controller").await?;
        self.ready(node, &pod).await?;
        // As DNS tells of the Service.
        self.hosts += &format!("{} ztunnel-controller.{OWN}.svc\n", pod.ip);
        let has_root = || self.api.object("v1", "configmaps", OWN, "istio-ca-root-cert").is_some();
        eventually("the root's ConfigMap", async || has_root()).await?;
        Ok(pod)
    }

    /// A node's pod of the chart's DaemonSet.
    pub(crate) async fn daemon(&self, node: usize) -> Result<Pod> {
        let name = daemon_name(node);
        let reviewed = Reviewed::pod(OWN, "ztunnel", &name, &format!("node{node}"), "istio-ca");
        self.api.accept_token(&token(&name), reviewed);
        let pod = self.own(node, ("DaemonSet", "ztunnel"), "daemon").await?;
        self.ready(node, &pod).await?;
        Ok(pod)
    }

    /// Its container has ended, and is started again.
    pub(crate) async fn restart_daemon(&self, node: usize, daemon: &mut Pod) -> Result<()> {
        let manifests = self.manifests(node)?;
        let spec = manifests.pods_of("DaemonSet", "ztunnel")?;
        self.begin(node, &manifests, spec, &spec["containers"][0], daemon).await?;
        self.ready(node, daemon).await
    }

    /// Whether our plugin is in the node's network.
    pub(crate) fn chained(&self, node: usize) -> bool {
        let list = fs::read_to_string(self.node(node).home.join("net.d").join(NETWORK));
        list.is_ok_and(|list| list.contains("ztunnel-cni"))
    }

    /// What of ours is on the node.
    pub(crate) fn left(&self, node: usize) -> Vec<String> {
        let inside = self.node(node).inside();
        let home = &self.node(node).home;
        let places =
            [inside.join("sys/fs/bpf"), inside.join("run/ztunnel"), home.join("net.d"), home.join("bin")];
        let entries =
            places.into_iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        // The kernel itself shows its objects in each bpffs.
        let is_other =
            |name: &str| name.ends_with(".debug") || name == NETWORK || runtime::is_of_debian(name);
        names.filter(|name| !is_other(name)).collect()
    }

    /// What helm's hook has run on each node.
    pub(crate) async fn uninstall(&self, node: usize) -> Result<i32> {
        self.own(node, ("DaemonSet", "ztunnel-uninstall"), "uninstall").await?.end().await
    }

    /// A pod of ours: its containers for initialisation one after the other, or if it has none but them the last of these.
    async fn own(&self, node: usize, workload: (&str, &str), name: &str) -> Result<Pod> {
        let manifests = self.manifests(node)?;
        let spec = manifests.pods_of(workload.0, workload.1)?;
        let identity = Identity {
            namespace: OWN.to_owned(),
            name: format!("{name}-{node}"),
            account: spec["serviceAccountName"].as_str().unwrap_or_default().to_owned(),
            node: format!("node{node}"),
        };
        let mut pod = self.schedule(node, &identity, spec["hostPID"] == true).await?;
        let first = spec["initContainers"].as_array().into_iter().flatten();
        let all = first.chain(spec["containers"].as_array().into_iter().flatten());
        let all: Vec<_> = all.filter(|container| container["name"] != "done").collect();
        for (index, container) in all.iter().enumerate() {
            self.begin(node, &manifests, spec, container, &mut pod).await?;
            if index + 1 < all.len() {
                ensure!(pod.end().await? == 0, "{}:\n{}", container["name"], self.node(node).logs_of(name));
            }
        }
        Ok(pod)
    }

    async fn begin(
        &self,
        node: usize,
        manifests: &Manifests,
        spec: &Value,
        container: &Value,
        pod: &mut Pod,
    ) -> Result<()> {
        let name = &pod.identity.name;
        let kubeconfig = self.api.kubeconfig("");
        let root = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str();
        let root = String::from_utf8(base64(root.unwrap_or_default())?)?;
        let address = self.api.address();
        let config_map = |name: &str| {
            let told = self.api.object("v1", "configmaps", OWN, name);
            told.or_else(|| manifests.find("ConfigMap", name).ok().cloned())
        };
        let given = Given {
            home: self.node(node).home.join("volumes").join(name),
            config_map: &config_map,
            token: &token(name),
            api_server: (address.ip().to_string(), address.port()),
            api_root: &root,
            hosts: self.hosts.clone(),
            kubelet: &self.kubelet(node),
        };
        let container = given.container(spec, container, pod)?;
        pod.start(&container).await
    }

    /// The chart, with what differs on these nodes from others.
    fn manifests(&self, node: usize) -> Result<Manifests> {
        let (home, root) = (&self.node(node).home, self.node(node).cgroups.root().context("no cgroup v2")?);
        Manifests::render(&json!({
            "daemon": {
                "cgroupRoot": root, "drainDeadline": "1s", "installSeccompProfile": true,
                "kubeletDirectory": self.kubelet(node),
            },
            "cni": { "confDir": home.join("net.d"), "binDir": home.join("bin") },
        }))
    }

    fn kubelet(&self, node: usize) -> PathBuf {
        self.node(node).home.join("kubelet")
    }

    /// Plaintext from the node itself: the kubelet's, or another process's.
    pub(crate) fn node_gets(&self, node: usize, by_kubelet: bool, address: &str) -> Result<String> {
        let application = env::var("ZTUNNEL_CRI_APPLICATION")?;
        let kubelet = self.node(node).cgroups.kubelet().context("no cgroup v2")?;
        let join = if by_kubelet {
            format!("echo $$ > {}/cgroup.procs && ", kubelet.display())
        } else {
            String::new()
        };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{join}exec {application} get {address}")]);
        let answer = self.topology.nodes[node - 1].host.output(command)?;
        ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// What the kubelet's probe asks.
    async fn ready(&self, node: usize, pod: &Pod) -> Result<()> {
        let host = &self.topology.nodes[node - 1].host;
        let url = format!("http://{}:15021/healthz/ready", pod.ip);
        let asked = eventually("ready", async || {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--max-time", "2", &url]);
            host.output(curl).is_ok_and(|answer| answer.status.success())
        });
        let log = || {
            format!(
                "{} is not ready; its log:\n{}",
                pod.identity.name,
                self.node(node).logs_of(&pod.identity.name)
            )
        };
        asked.await.with_context(log)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (number, node) in (1..).zip(&self.nodes) {
            for name in ["controller", "daemon", "uninstall"] {
                let log = node.logs_of(name);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "--- node {number}, {name}:\n{}",
                    lines[lines.len().saturating_sub(60)..].join("\n")
                );
            }
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- node {number}, containerd:\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        if env::var_os("ZTUNNEL_KEEP").is_some() {
            eprintln!("{} is kept for {KEPT:?}", self.home.path().display());
            std::thread::sleep(KEPT);
        }
    }
}

/// Where somebody wants to look at what failed.
const KEPT: Duration = Duration::from_secs(300);

pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Result<()> {
    const ATTEMPTS: usize = 300;
    for _ in 0..ATTEMPTS {
        if is_so().await {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{what}: not in time")
}

fn daemon_name(node: usize) -> String {
    format!("daemon-{node}")
}

fn token(pod: &str) -> String {
    format!("token-of-{pod}")
}

fn base64(text: &str) -> Result<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    Ok(STANDARD.decode(text)?)
}

/// For the sandboxes and the applications.
fn workload_image(home: &Path) -> Result<PathBuf> {
    let program = env::var_os("ZTUNNEL_CRI_APPLICATION")
        .context("ZTUNNEL_CRI_APPLICATION; run: cargo xtask test --cri")?;
    let program = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let programs = [("application", program)];
    let image = image::image(SANDBOX_IMAGE, Processor::of_this_machine(), &programs, &[APPLICATION])?;
    let file = home.join("workload.tar");
    fs::write(&file, image.bytes)?;
    Ok(file)
}
