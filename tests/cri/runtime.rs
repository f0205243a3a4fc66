//! containerd for one node: its own directories, its own mounts, the node's network.

use std::{
    fs,
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

pub(crate) const SANDBOX_IMAGE: &str = "ztunnel.test/workload:1";
/// Where Debian has the plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Ends with the test, and every mount of its with its mount namespace.
pub(crate) struct Containerd {
    pub(crate) home: PathBuf,
    socket: PathBuf,
    process: Process,
}

impl Containerd {
    pub(crate) async fn start(node: &Node, home: &Path) -> Result<Self> {
        let socket = home.join("run/containerd.sock");
        for directory in ["cni", "run", "logs"] {
            fs::create_dir_all(home.join(directory))?;
        }
        fs::write(home.join("config.toml"), config(home, &socket))?;
        fs::write(home.join("cni/10-mesh.conflist"), network(node))?;
        let mut command = Command::new("unshare");
        // What it mounts is seen by nobody else; /run is its own, as are the shims' sockets in it.
        let script = "mount -t tmpfs tmpfs /run && exec containerd --config \"$0\" >\"$1\" 2>&1";
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .args([home.join("config.toml"), home.join("logs/containerd.log")]);
        let process = node.host.start(command).context("util-linux and containerd are needed")?;
        let this = Self { home: home.to_owned(), socket, process };
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
        let log = fs::read_to_string(self.home.join("logs/containerd.log")).unwrap_or_default();
        anyhow::bail!("containerd does not answer; its log:\n{log}")
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

impl Drop for Containerd {
    /// Containers outlive containerd; these have no more reason to.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let socket = self.socket.display().to_string();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if line.contains("containerd-shim") && line.contains(&socket) {
                end_with_children(&entry.file_name().to_string_lossy());
            }
        }
    }
}

/// A shim's children are the first processes of its containers.
fn end_with_children(shim: &str) {
    let threads = fs::read_dir(format!("/proc/{shim}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: String = children.collect();
    for id in children.split_whitespace().chain([shim]) {
        let _ = Command::new("kill").args(["-9", id]).status();
    }
}

/// restrict_oom_score_adj: who may not make the kernel spare a process must not ask for it.
fn config(home: &Path, socket: &Path) -> String {
    let [home, socket] = [home, socket].map(|path| path.display().to_string());
    format!(
        r#"version = 2
root = "{home}/root"
state = "{home}/run/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{home}/cni"
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
