//! Two nodes with containerd, a client on the first, a server on the second, and a daemon on each.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use chart::{Chart, parse};
use image::Processor;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Node, Topology};
use tokio::time::sleep;
use ztunnel_cri_tests::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, Mount, MountPropagation, SecurityProfile,
    security_profile::ProfileType,
};

use crate::{
    MARKER,
    pods::{Pod, Wanted},
    runtime::{Containerd, SANDBOX_IMAGE},
};

const SLEEP: &[&str] = &["/usr/local/bin/busybox", "sleep", "100000"];

pub(crate) struct Mesh {
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) daemons: Vec<Pod>,
    // Pods before the runtimes that have them, these before their directories.
    runtimes: Vec<Containerd>,
    pins: Vec<PathBuf>,
    home: TempDir,
}

impl Mesh {
    /// Pods, but no daemon yet: they run already when they are enrolled.
    pub(crate) async fn start(topology: &Topology, image: &Path) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let workload = workload_image(home.path())?;
        let mut runtimes = Vec::new();
        for node in &topology.nodes {
            let runtime = Containerd::start(node, &home.path().join(format!("node{}", node.number))).await?;
            runtime.import(image)?;
            runtime.import(&workload)?;
            runtimes.push(runtime);
        }
        let client = Pod::run(&runtimes[0], Wanted::application("client", SLEEP)).await?;
        let page = format!(
            "busybox mkdir -p /www && echo {MARKER} > /www/index.html && exec busybox httpd -f -p 8080 -h /www"
        );
        let command = ["/usr/local/bin/busybox", "sh", "-c", page.as_str()];
        let server = Pod::run(&runtimes[1], Wanted::application("server", &command)).await?;
        let pins = topology
            .nodes
            .iter()
            .map(|node| PathBuf::from(format!("/sys/fs/bpf/{}-cri", node.host.netns_name())));
        let pins = pins.collect();
        Ok(Self { client, server, daemons: Vec::new(), runtimes, pins, home })
    }

    /// Starts the daemons, with both pods in their lists.
    pub(crate) async fn enrol(&mut self, topology: &Topology) -> Result<()> {
        for (node, pod) in topology.nodes.iter().zip([&self.client, &self.server]) {
            self.configure(node, pod)?;
        }
        for (number, node) in topology.nodes.iter().enumerate() {
            let daemon = Pod::run(&self.runtimes[number], self.daemon(node)?).await?;
            self.ready(node, &daemon).await?;
            self.daemons.push(daemon);
        }
        Ok(())
    }

    pub(crate) async fn restart_daemon(&mut self, topology: &Topology, number: usize) -> Result<()> {
        let node = &topology.nodes[number];
        let wanted = self.daemon(node)?;
        self.daemons[number].start(&wanted).await?;
        self.ready(node, &self.daemons[number]).await
    }

    pub(crate) async fn remove(self) -> Result<()> {
        for pod in self.daemons.into_iter().chain([self.client, self.server]) {
            pod.remove().await?;
        }
        for pins in &self.pins {
            let _ = fs::remove_dir_all(pins);
        }
        Ok(())
    }

    fn configure(&self, node: &Node, pod: &Pod) -> Result<()> {
        let directory = self.etc(node);
        fs::create_dir_all(&directory)?;
        let workload = |pod: &Pod, node: u8| {
            json!({
                "uid": format!("Kubernetes//Pod/default/{}", pod.name), "name": pod.name, "namespace": "default",
                "serviceAccount": pod.name, "trustDomain": "cluster.local", "workloadIps": [pod.ip],
                "protocol": "HBONE", "node": format!("node{node}"),
            })
        };
        let state = json!({ "workloads": [workload(&self.client, 1), workload(&self.server, 2)] });
        let pods = json!({ "pods": [{
            "uid": format!("Kubernetes//Pod/default/{}", pod.name), "netns": format!("/proc/{}/ns/net", pod.pid),
            "ips": [pod.ip], "failMode": "closed",
        }] });
        let config = json!({
            "nodeName": format!("node{}", node.number), "stateFile": "/etc/ztunnel/state.yaml",
            "podsFile": "/etc/ztunnel/pods.yaml", "caKey": "/ca/ca.key", "caCertificate": "/ca/ca.pem",
            "cgroupRoot": "/host/sys/fs/cgroup", "bpfDir": self.pins[usize::from(node.number) - 1],
            "adminSocket": "/var/run/ztunnel/admin.sock", "drainDeadline": "1s",
        });
        // JSON is YAML.
        for (name, content) in [("state", state), ("pods", pods), ("config", config)] {
            fs::write(directory.join(format!("{name}.yaml")), content.to_string())?;
        }
        Ok(())
    }

    fn etc(&self, node: &Node) -> PathBuf {
        self.home.path().join(format!("node{}/etc", node.number))
    }

    /// As the chart's DaemonSet has it, with this node's directories in the place of the host's.
    fn daemon(&self, node: &Node) -> Result<Wanted<'static>> {
        let chart = Chart::ours()?;
        let documents = chart.render(&json!({}))?;
        let documents = documents.iter().map(|text| parse(text)).collect::<Result<Vec<_>>>()?;
        let daemon =
            documents.iter().find(|d| d["kind"] == "DaemonSet" && d["metadata"]["name"] == "ztunnel");
        let pod = &daemon.context("no DaemonSet")?["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let run = self.home.path().join(format!("node{}/run-ztunnel", node.number));
        let ca = self.home.path().join("ca");
        fs::create_dir_all(&run)?;
        fs::create_dir_all(&ca)?;
        let own = |path: &str, host: PathBuf| Mount {
            container_path: path.to_owned(),
            host_path: host.display().to_string(),
            readonly: path == "/etc/ztunnel" || path.starts_with("/host"),
            propagation: MountPropagation::PropagationHostToContainer.into(),
        };
        let mounted = |path: &str| {
            container["volumeMounts"].as_array().is_some_and(|all| all.iter().any(|m| m["mountPath"] == path))
        };
        let mounts = [
            ("/etc/ztunnel", self.etc(node)),
            ("/var/run/ztunnel", run),
            ("/sys/fs/bpf", "/sys/fs/bpf".into()),
            ("/host/sys/fs/cgroup", node.cgroup().to_owned()),
        ];
        for (path, _) in &mounts {
            ensure!(mounted(path), "the chart does not mount {path}");
        }
        let mounts = mounts.into_iter().chain([("/ca", ca)]).map(|(path, host)| own(path, host)).collect();
        Ok(Wanted {
            name: "ztunnel",
            image: image_name(&chart)?,
            command: &[],
            arguments: words(&container["args"]),
            host_pid: pod["hostPID"] == true,
            security: security(&container["securityContext"]),
            mounts,
        })
    }

    /// What the kubelet's probe asks.
    async fn ready(&self, node: &Node, daemon: &Pod) -> Result<()> {
        const ATTEMPTS: usize = 200;
        let url = format!("http://{}:15021/healthz/ready", daemon.ip);
        for _ in 0..ATTEMPTS {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--max-time", "2", &url]);
            if node.host.output(curl)?.status.success() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        let logs = self.home.path().join(format!("node{}/logs", node.number));
        let log = fs::read_dir(logs)?
            .flatten()
            .filter(|file| file.file_name().to_string_lossy().starts_with("ztunnel"));
        let text: String = log.filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
        anyhow::bail!("the daemon of node {} is not ready; its log:\n{text}", node.number)
    }
}

fn security(context: &Value) -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: words(&context["capabilities"]["add"]),
            drop_capabilities: words(&context["capabilities"]["drop"]),
        }),
        privileged: context["privileged"] == true,
        run_as_user: context["runAsUser"].as_i64().map(|value| Int64Value { value }),
        readonly_rootfs: context["readOnlyRootFilesystem"] == true,
        no_new_privs: context["allowPrivilegeEscalation"] == false,
        seccomp: Some(SecurityProfile { profile_type: ProfileType::RuntimeDefault.into() }),
        ..LinuxContainerSecurityContext::default()
    }
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

fn image_name(chart: &Chart) -> Result<String> {
    let about = parse(&chart.file("Chart.yaml")?)?;
    let repository = chart.defaults()["image"]["repository"].as_str().context("a repository")?;
    Ok(format!("{repository}:{}", about["appVersion"].as_str().context("a version")?))
}

/// busybox alone: for the sandboxes and the applications.
fn workload_image(home: &Path) -> Result<PathBuf> {
    let busybox = env::var_os("ZTUNNEL_STATIC_BUSYBOX")
        .context("ZTUNNEL_STATIC_BUSYBOX; run: cargo xtask test --cri")?;
    let program = fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    let image = image::image(SANDBOX_IMAGE, Processor::of_this_machine(), &[("busybox", program)], SLEEP)?;
    let file = home.join("workload.tar");
    fs::write(&file, image.bytes)?;
    Ok(file)
}
