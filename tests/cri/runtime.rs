//! containerd for one node: the node's network; process numbers, mounts and cgroups of its own; its own directories.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use testkit::{Node, Process};
use tokio::{net::UnixStream, time::sleep};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use ztunnel_cri_tests::v1::{VersionRequest, runtime_service_client::RuntimeServiceClient};

use crate::cgroups::Cgroups;

pub(crate) const SANDBOX_IMAGE: &str = "ztunnel.test/workload:1";
/// The file of the node's network.
pub(crate) const NETWORK: &str = "10-mesh.conflist";
/// Where Debian has the plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Ends with the test, and every process and mount of its with it.
pub(crate) struct Containerd {
    pub(crate) home: PathBuf,
    socket: PathBuf,
    // In order of destruction: who is in the cgroups goes first.
    process: Process,
    pub(crate) cgroups: Cgroups,
}

impl Containerd {
    /// `made` are directories that the node has besides.
    pub(crate) async fn start(node: &Node, home: &Path, made: &[&str]) -> Result<Self> {
        let socket = home.join("containerd.sock");
        for directory in ["net.d", "bin", "logs"] {
            fs::create_dir_all(home.join(directory))?;
        }
        for plugin in fs::read_dir(CNI_PLUGINS).context("containernetworking-plugins are needed")?.flatten() {
            symlink(plugin.path(), home.join("bin").join(plugin.file_name()))?;
        }
        fs::write(home.join("config.toml"), config(home, &socket))?;
        fs::write(home.join("net.d").join(NETWORK), network(node))?;
        let cgroups = Cgroups::create(&format!("node{}", node.number))?;
        fs::write(home.join("inside.sh"), inside(home, &cgroups, made))?;
        let mut command = Command::new("sh");
        // The first process of a namespace of process numbers ends all others there.
        let outside = format!(
            "set -e\n{}exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc --cgroup sh {}",
            cgroups.join(),
            home.join("inside.sh").display()
        );
        command.args(["-c", &outside]);
        let process = node.host.start(command).context("util-linux is needed")?;
        let this = Self { home: home.to_owned(), socket, process, cgroups };
        this.client().await?;
        Ok(this)
    }

    /// Waits until it answers.
    pub(crate) async fn client(&self) -> Result<RuntimeServiceClient<Channel>> {
        const ATTEMPTS: usize = 300;
        for _ in 0..ATTEMPTS {
            if let Ok(client) = self.connect().await {
                return Ok(client);
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("containerd does not answer; its log:\n{}", self.log())
    }

    /// The root of the node's mounts, as this machine sees it.
    pub(crate) fn inside(&self) -> PathBuf {
        // The process itself is outside; the first of those inside is its child.
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        format!("/proc/{}/root", children.split(' ').next().unwrap_or_default()).into()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("logs/containerd.log")).unwrap_or_default()
    }

    /// What this node's pods wrote, those of this name.
    pub(crate) fn logs_of(&self, name: &str) -> String {
        let mut files: Vec<_> = fs::read_dir(self.home.join("logs"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path())
            .collect();
        files.retain(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)));
        files.sort();
        files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
    }

    async fn connect(&self) -> Result<RuntimeServiceClient<Channel>> {
        let socket = self.socket.clone();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://containerd").connect_with_connector(connector).await?;
        let mut client = RuntimeServiceClient::new(channel);
        client.version(VersionRequest::default()).await?;
        Ok(client)
    }

    /// Takes an image from an archive, as `ctr images import` and `kind load` do.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args([
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "native",
        ]);
        let answer = command.arg(archive).output().context("ctr")?;
        ensure!(answer.status.success(), "ctr: {}", String::from_utf8_lossy(&answer.stderr));
        Ok(())
    }
}

pub(crate) fn is_of_debian(plugin: &str) -> bool {
    Path::new(CNI_PLUGINS).join(plugin).exists()
}

/// What it mounts is seen by nobody else but its containers, as where systemd has made the mounts.
fn inside(home: &Path, cgroups: &Cgroups, made: &[&str]) -> String {
    let made: String = made.iter().map(|directory| format!("mkdir -p {directory}\n")).collect();
    let home = home.display();
    format!(
        "set -e\nexec >{home}/logs/containerd.log 2>&1\n\
         mount --make-rshared /\nmount -t tmpfs tmpfs /run\nmount -t bpf bpf /sys/fs/bpf\n{}{made}\
         exec containerd --config {home}/config.toml\n",
        cgroups.mount()
    )
}

/// restrict_oom_score_adj: who may not make the kernel spare a process must not ask for it.
fn config(home: &Path, socket: &Path) -> String {
    let [home, socket] = [home, socket].map(|path| path.display().to_string());
    format!(
        r#"version = 2
root = "{home}/root"
state = "/run/containerd"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{home}/bin"
conf_dir = "{home}/net.d"
"#
    )
}

/// The node's bridge, with addresses that the topology gives to nobody.
fn network(node: &Node) -> String {
    let number = node.number;
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "mesh", "plugins": [{{
            "type": "bridge", "bridge": "br0", "ipam": {{
                "type": "host-local", "dataDir": "/run/ipam",
                "ranges": [[{{"subnet": "10.1.{number}.0/24", "rangeStart": "10.1.{number}.100", "rangeEnd": "10.1.{number}.150",
                    "gateway": "10.1.{number}.1"}}]],
                "routes": [{{"dst": "0.0.0.0/0"}}]
            }}
        }}]}}"#
    )
}
