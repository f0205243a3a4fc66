//! Pods as a kubelet makes them: a sandbox, then containers in it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::transport::Channel;
use ztunnel_cri_tests::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest, CreateContainerRequest,
    ExecSyncRequest, ImageSpec, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};

use crate::runtime::Containerd;

/// What a kubelet asks to be hidden or kept from writing in every container that is not privileged.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const MASKED: [&str; 6] =
    ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"];

/// Who a pod is, as the API server has it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) account: String,
    pub(crate) node: String,
}

impl Identity {
    pub(crate) fn uid(&self) -> String {
        let text = format!("{}/{}", self.namespace, self.name);
        let sum = text.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(131).wrapping_add(byte.into()));
        format!("00000000-0000-4000-8000-{:012x}", sum & 0xffff_ffff_ffff)
    }

    /// As the API server tells of it; without an address it does not run yet.
    pub(crate) fn object(&self, ip: Option<&str>) -> Value {
        let status = match ip {
            Some(ip) => json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] }),
            None => json!({ "phase": "Pending" }),
        };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": self.name, "namespace": self.namespace, "uid": self.uid(), "labels": {} },
            "spec": {
                "nodeName": self.node, "serviceAccountName": self.account,
                "containers": [{ "name": "app", "image": "app" }],
            },
            "status": status,
        })
    }
}

/// A container, as its pod's manifest has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Container {
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<KeyValue>,
    pub(crate) security: LinuxContainerSecurityContext,
    pub(crate) mounts: Vec<Mount>,
}

pub(crate) struct Pod {
    client: RuntimeServiceClient<Channel>,
    sandbox: String,
    config: PodSandboxConfig,
    container: String,
    pub(crate) identity: Identity,
    pub(crate) ip: String,
}

impl Pod {
    /// The sandbox with its network, by the CNI plugins; nothing runs in it yet.
    pub(crate) async fn sandbox(runtime: &Containerd, identity: &Identity, host_pid: bool) -> Result<Self> {
        let mut client = runtime.client().await?;
        let config = sandbox_config(identity, host_pid, &runtime.home.join("logs").display().to_string());
        let request = RunPodSandboxRequest { config: Some(config.clone()) };
        let answer = client
            .run_pod_sandbox(request)
            .await
            .with_context(|| format!("the sandbox of {}", identity.name))?;
        let sandbox = answer.into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
        let status = client.pod_sandbox_status(request).await?.into_inner();
        let ip = status.status.and_then(|status| status.network).context("a network")?.ip;
        Ok(Self { client, sandbox, config, container: String::new(), identity: identity.clone(), ip })
    }

    /// A container in the sandbox; the one before must have ended.
    pub(crate) async fn start(&mut self, wanted: &Container) -> Result<()> {
        let mut metadata = self.config.metadata.clone().unwrap_or_default();
        metadata.attempt += u32::from(!self.container.is_empty());
        self.config.metadata = Some(metadata.clone());
        let (name, attempt) = (metadata.name, metadata.attempt);
        let mut security = wanted.security.clone();
        let sandbox = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        security.namespace_options = sandbox.and_then(|sandbox| sandbox.namespace_options);
        security.readonly_paths = READ_ONLY.map(str::to_owned).to_vec();
        security.masked_paths = MASKED.map(str::to_owned).to_vec();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.clone(), attempt }),
            image: Some(ImageSpec { image: wanted.image.clone() }),
            command: wanted.command.clone(),
            args: wanted.arguments.clone(),
            envs: wanted.environment.clone(),
            mounts: wanted.mounts.clone(),
            log_path: format!("{name}-{attempt}.log"),
            linux: Some(LinuxContainerConfig { security_context: Some(security) }),
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
        let request = ExecSyncRequest { container_id: self.container.clone(), cmd, timeout: 15 };
        let answer = self.client.exec_sync(request).await?.into_inner();
        ensure!(answer.exit_code == 0, "{command:?}: {}", String::from_utf8_lossy(&answer.stderr));
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// The exit code of its container, once it has ended.
    pub(crate) async fn end(&mut self) -> Result<i32> {
        const ATTEMPTS: usize = 400;
        for _ in 0..ATTEMPTS {
            let request = ContainerStatusRequest { container_id: self.container.clone() };
            let status = self.client.container_status(request).await?.into_inner().status;
            let status = status.context("a status")?;
            if status.state() == ContainerState::Exited {
                return Ok(status.exit_code);
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("{} does not end", self.identity.name)
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

fn sandbox_config(identity: &Identity, host_pid: bool, logs: &str) -> PodSandboxConfig {
    let pid = if host_pid { NamespaceMode::Node } else { NamespaceMode::Container };
    let options = NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: identity.name.clone(),
            uid: identity.uid(),
            namespace: identity.namespace.clone(),
            attempt: 0,
        }),
        hostname: identity.name.clone(),
        log_directory: logs.to_owned(),
        linux: Some(LinuxPodSandboxConfig {
            // With the driver cgroupfs.
            cgroup_parent: format!("/kubepods/burstable/pod{}", identity.uid()),
            security_context: Some(LinuxSandboxSecurityContext { namespace_options: Some(options) }),
        }),
        ..PodSandboxConfig::default()
    }
}
