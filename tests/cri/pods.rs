//! Pods as a kubelet makes them: a sandbox, then a container in it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tonic::transport::Channel;
use ztunnel_cri_tests::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest, runtime_service_client::RuntimeServiceClient,
};

use crate::runtime::{Containerd, SANDBOX_IMAGE};

/// What a kubelet asks to be hidden or kept from writing in every container that is not privileged.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const MASKED: [&str; 6] =
    ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"];

pub(crate) struct Pod {
    client: RuntimeServiceClient<Channel>,
    sandbox: String,
    config: PodSandboxConfig,
    container: String,
    pub(crate) name: String,
    pub(crate) ip: String,
    /// Of the sandbox, as this machine sees it.
    pub(crate) pid: u64,
}

pub(crate) struct Wanted<'w> {
    pub(crate) name: &'w str,
    pub(crate) image: String,
    pub(crate) command: &'w [&'w str],
    pub(crate) arguments: Vec<String>,
    pub(crate) host_pid: bool,
    pub(crate) security: LinuxContainerSecurityContext,
    pub(crate) mounts: Vec<Mount>,
}

impl<'w> Wanted<'w> {
    /// An application that has no privilege.
    pub(crate) fn application(name: &'w str, command: &'w [&'w str]) -> Self {
        let security = LinuxContainerSecurityContext::default();
        Self {
            name,
            image: SANDBOX_IMAGE.to_owned(),
            command,
            arguments: Vec::new(),
            host_pid: false,
            security,
            mounts: Vec::new(),
        }
    }
}

impl Pod {
    pub(crate) async fn run(runtime: &Containerd, wanted: Wanted<'_>) -> Result<Self> {
        let mut client = runtime.client().await?;
        let config = sandbox_config(&wanted, &runtime.home);
        let request = RunPodSandboxRequest { config: Some(config.clone()) };
        let answer = client
            .run_pod_sandbox(request)
            .await
            .with_context(|| format!("the sandbox of {}", wanted.name))?;
        let sandbox = answer.into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
        let status = client.pod_sandbox_status(request).await?.into_inner();
        let info: Value = serde_json::from_str(status.info.get("info").context("a verbose status")?)?;
        let ip = status.status.and_then(|status| status.network).context("a network")?.ip;
        let mut pod = Self {
            client,
            sandbox,
            config,
            container: String::new(),
            name: wanted.name.to_owned(),
            ip,
            pid: info["pid"].as_u64().context("the sandbox's process")?,
        };
        pod.start(&wanted).await?;
        Ok(pod)
    }

    /// A container in the sandbox; the one before must have ended.
    pub(crate) async fn start(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let attempt = self.config.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
            + u32::from(!self.container.is_empty());
        let mut security = wanted.security.clone();
        let sandbox = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        security.namespace_options = sandbox.and_then(|sandbox| sandbox.namespace_options);
        security.readonly_paths = READ_ONLY.map(str::to_owned).to_vec();
        security.masked_paths = MASKED.map(str::to_owned).to_vec();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: wanted.name.to_owned(), attempt }),
            image: Some(ImageSpec { image: wanted.image.clone() }),
            command: wanted.command.iter().map(|&word| word.to_owned()).collect(),
            args: wanted.arguments.clone(),
            mounts: wanted.mounts.clone(),
            log_path: format!("{}-{attempt}.log", wanted.name),
            linux: Some(LinuxContainerConfig { security_context: Some(security) }),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        self.container =
            self.client.create_container(request).await.context("the container")?.into_inner().container_id;
        self.client
            .start_container(StartContainerRequest { container_id: self.container.clone() })
            .await
            .context("its start")?;
        Ok(())
    }

    /// What the command said, if it went well.
    pub(crate) async fn exec(&mut self, command: &[&str]) -> Result<String> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSyncRequest { container_id: self.container.clone(), cmd, timeout: 10 };
        let answer = self.client.exec_sync(request).await?.into_inner();
        ensure!(answer.exit_code == 0, "{command:?}: {}", String::from_utf8_lossy(&answer.stderr));
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// SIGTERM, and SIGKILL after so many seconds.
    pub(crate) async fn stop_container(&mut self, timeout: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: self.container.clone(), timeout };
        self.client.stop_container(request).await?;
        Ok(())
    }

    pub(crate) async fn remove(mut self) -> Result<()> {
        self.client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: self.sandbox.clone() }).await?;
        self.client
            .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: self.sandbox.clone() })
            .await?;
        Ok(())
    }
}

fn sandbox_config(wanted: &Wanted<'_>, home: &Path) -> PodSandboxConfig {
    let pid = if wanted.host_pid { NamespaceMode::Node } else { NamespaceMode::Container };
    let options = NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: wanted.name.to_owned(),
            uid: format!("uid-{}", wanted.name),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: wanted.name.to_owned(),
        log_directory: home.join("logs").display().to_string(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: String::new(),
            security_context: Some(LinuxSandboxSecurityContext { namespace_options: Some(options) }),
        }),
        ..PodSandboxConfig::default()
    }
}
