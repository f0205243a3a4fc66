//! `ztunnel unenrol --all`: this node as if there had never been a mesh.

use std::{fs, io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use redirect::{RedirectError, Removed};
use tokio::time::{Instant, sleep};

use crate::{
    config::{DEFAULT_ADMIN_SOCKET, DEFAULT_BPF_DIR, DEFAULT_CNI_BINARIES, DEFAULT_CNI_CONFIGURATIONS, Span},
    plugin,
};

const POLL: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Unenrol {
    /// All of this node's pods; there is no other way to ask for it.
    #[arg(long, required = true)]
    all: bool,
    /// Where programs and maps are pinned.
    #[arg(long, env = "ZTUNNEL_BPF_DIR", value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,
    /// The configurations of the node's network.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CNI_CONFIGURATIONS)]
    cni_configurations: PathBuf,
    /// The binaries of CNI plugins.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CNI_BINARIES)]
    cni_binaries: PathBuf,
    /// The daemon's Unix socket; one that was killed has left it.
    #[arg(long, env = "ZTUNNEL_ADMIN_SOCKET", value_name = "FILE", default_value = DEFAULT_ADMIN_SOCKET)]
    admin_socket: PathBuf,
    /// How long to wait for a daemon that is ending.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    wait: Span,
}

impl Unenrol {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        debug_assert!(self.all, "the command line demands it");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
        runtime.block_on(self.take_away())
    }

    async fn take_away(&self) -> anyhow::Result<ExitCode> {
        self.wait_for_the_end_of_the_daemon().await?;
        // First, so that no pod waits for a daemon that does not come.
        for path in plugin::remove(&self.cni_configurations, &self.cni_binaries)? {
            println!("CNI: {}", path.display());
        }
        match fs::remove_file(&self.admin_socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", self.admin_socket.display()));
            }
            _ => {}
        }
        let Removed { pods, links, namespaces } = redirect::unenrol_all(&self.bpf_dir).await?;
        println!("pods: {pods}, programs: {links}, network namespaces with rules: {namespaces}");
        println!("nothing is left in {}; this node's pods talk plainly", self.bpf_dir.display());
        Ok(ExitCode::SUCCESS)
    }

    async fn wait_for_the_end_of_the_daemon(&self) -> Result<(), RedirectError> {
        let give_up = Instant::now() + self.wait.0;
        loop {
            match redirect::refuse_if_served(&self.bpf_dir) {
                Err(RedirectError::StillServed) if Instant::now() < give_up => sleep(POLL).await,
                result => return result,
            }
        }
    }
}
