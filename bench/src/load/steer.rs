//! The redirection without a proxy: a pod's connections are steered here by the eBPF programs alone, and echoed.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Args;
use model::{Role, WorkloadUid};
use redirect::{EnrolledPod, FailMode, PodSpec, Redirector, Settings};
use tokio::runtime::Handle;

use super::server;

#[derive(Args)]
pub(crate) struct Pod {
    #[arg(long)]
    pub(crate) netns: PathBuf,
    #[arg(long)]
    pub(crate) ip: Vec<IpAddr>,
    #[arg(long)]
    pub(crate) bpf_dir: PathBuf,
    #[arg(long)]
    pub(crate) cgroup_root: PathBuf,
}

/// Serves until it is killed. Says so on standard output once the pod is enrolled.
pub(crate) fn run(pod: Pod) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let redirector = Arc::new(Redirector::start(Settings {
            bpf_dir: pod.bpf_dir.clone(),
            cgroup_root: pod.cgroup_root.clone(),
            node_netns: None,
            kubelet_cgroup: None,
            data_plane: Handle::current(),
        })?);
        let enrolled = redirector.enrol(spec(pod)).await?;
        redirector.activate(&[&enrolled])?;
        let beating = Arc::clone(&redirector);
        tokio::spawn(async move { beating.keep_beating().await });
        println!("listening");
        echo_all(&enrolled).await
    })
}

async fn echo_all(pod: &EnrolledPod) -> Result<()> {
    loop {
        match pod.accept(Role::Outbound).await {
            Ok(accepted) => _ = tokio::spawn(server::echo_to_the_end(accepted.stream)),
            Err(error) => bail!("accepting: {error}"),
        }
    }
}

fn spec(pod: Pod) -> PodSpec {
    let v4 = pod.ip.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None });
    let v6 = pod.ip.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None });
    PodSpec {
        uid: WorkloadUid::new("steered"),
        netns: pod.netns,
        netns_identity: None,
        v4,
        v6,
        fail_mode: FailMode::Closed,
        strict: false,
        excluded_outbound: Vec::new(),
        excluded_inbound: Vec::new(),
    }
}
