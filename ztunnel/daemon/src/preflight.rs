//! `ztunnel check --cluster`: what would stand in the mesh's way in a cluster, asked of its API server before anything is
//! installed. Changes nothing.
//!
//! - [`look`] asks, and says what it may not ask.
//! - [`nodes`], [`pods`], [`policies`], [`others`] judge what was found: PURE.
//! - [`report`] is what a person or a script reads.

mod look;
mod nodes;
mod others;
mod pods;
mod policies;
mod report;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::Context;
use tokio::runtime::Builder;

use self::report::Report;

/// What was asked is not known, in whole or in part.
const UNKNOWN: u8 = 2;

#[derive(clap::Args)]
pub(crate) struct Cluster {
    /// Ask the API server of a cluster instead: kernels, network policies, other meshes and CNIs, permissions.
    #[arg(long)]
    cluster: bool,
    /// How the API server is reached [default: ~/.kube/config, else as the pod that this runs in].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where the mesh is to be installed.
    #[arg(long, value_name = "NAME", default_value = "ztunnel-system")]
    namespace: String,
    /// As JSON.
    #[arg(long, requires = "cluster")]
    json: bool,
}

impl Cluster {
    pub(crate) fn is_asked_for(&self) -> bool {
        self.cluster
    }

    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let runtime = Builder::new_current_thread().enable_all().build().context("starting")?;
        let report = match runtime.block_on(self.report()) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("ztunnel: {}", crate::whole_story(&error));
                return Ok(ExitCode::from(UNKNOWN));
            }
        };
        if self.json {
            println!("{:#}", serde_json::to_value(&report)?);
        } else {
            print!("{}", report.text());
        }
        Ok(match (report.problems(), report.unknown()) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(UNKNOWN),
            _ => ExitCode::FAILURE,
        })
    }

    async fn report(&self) -> anyhow::Result<Report> {
        let kubeconfig = self.kubeconfig.clone().or_else(usual_kubeconfig);
        let client = kubernetes::connect(kubeconfig.as_deref()).await.context("finding the API server")?;
        let mut report = Report::default();
        let found = look::look(&client, &self.namespace, &mut report).await?;
        nodes::judge(&found, &mut report);
        pods::judge(&found, &mut report);
        policies::judge(&found, &mut report);
        others::judge(&found, &mut report);
        Ok(report)
    }
}

fn usual_kubeconfig() -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os("HOME")?).join(".kube/config");
    path.is_file().then_some(path)
}
