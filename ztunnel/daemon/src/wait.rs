//! `ztunnel wait`: with which the chart's clean-up waits, since its image holds nothing else that could.

use std::{process::ExitCode, str::FromStr, time::Duration};

use anyhow::{Context, bail};
use kubernetes::{
    k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node},
    kube::{Api, Client, api::ListParams},
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

const POLL: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Wait {
    /// Until this DaemonSet is ready on every node that is up, as the API server of this pod's cluster says; nodes that are
    /// down are named. Whoever runs this says how long that may take.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    daemon_set: Option<ObjectName>,
    /// Until SIGTERM or SIGINT.
    #[arg(long)]
    forever: bool,
}

#[derive(Clone, Debug)]
struct ObjectName {
    namespace: String,
    name: String,
}

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("expected NAMESPACE/NAME".to_owned()),
        }
    }
}

impl Wait {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let runtime = Builder::new_current_thread().enable_all().build().context("starting")?;
        runtime.block_on(async {
            // The first process of a container is not ended by signals that it does not ask for.
            let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
            tokio::select! {
                result = self.wait() => result,
                _ = terminate.recv() => bail!("ended by SIGTERM"),
                _ = interrupt.recv() => bail!("ended by SIGINT"),
            }
        })
    }

    async fn wait(&self) -> anyhow::Result<ExitCode> {
        let Some(ObjectName { namespace, name }) = &self.daemon_set else {
            debug_assert!(self.forever, "the command line demands one of the two");
            return std::future::pending().await;
        };
        let client = kubernetes::connect(None).await.context("finding the API server")?;
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
        let mut told = String::new();
        loop {
            let progress = match sets.get(name).await {
                Ok(set) => match progress(&set, &down(&client).await) {
                    Progress::Done => return Ok(ExitCode::SUCCESS),
                    Progress::DoneBut(nodes) => {
                        println!("{namespace}/{name}: these nodes are down and left as they are: {nodes}");
                        return Ok(ExitCode::SUCCESS);
                    }
                    Progress::Waiting(progress) => progress,
                },
                Err(error) => error.to_string(),
            };
            if progress != told {
                println!("{namespace}/{name}: {progress}");
                told = progress;
            }
            sleep(POLL).await;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    /// But for nodes that are down, by their names.
    DoneBut(String),
    Waiting(String),
}

/// The nodes that are not ready. Who may not ask waits for all of them.
async fn down(client: &Client) -> Vec<String> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let is_ready = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let nodes = nodes.map(|list| list.items).unwrap_or_default();
    nodes.into_iter().filter(|node| !is_ready(node)).filter_map(|node| node.metadata.name).collect()
}

/// A status that is older than the DaemonSet says nothing of it.
fn progress(set: &DaemonSet, down: &[String]) -> Progress {
    let Some(status) = set.status.as_ref().filter(|s| s.observed_generation >= set.metadata.generation)
    else {
        return Progress::Waiting("not seen by the cluster yet".to_owned());
    };
    let (ready, wanted) = (status.number_ready, status.desired_number_scheduled);
    let missing = usize::try_from(wanted - ready).unwrap_or_default();
    match missing {
        0 => Progress::Done,
        missing if missing <= down.len() => Progress::DoneBut(down.join(", ")),
        _ => Progress::Waiting(format!("{ready} of {wanted} nodes")),
    }
}

#[cfg(test)]
mod tests {
    use kubernetes::k8s_openapi::{
        api::apps::v1::DaemonSetStatus, apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

    use super::*;

    fn set(observed: Option<i64>, ready: i32, wanted: i32) -> DaemonSet {
        let status = DaemonSetStatus {
            observed_generation: observed,
            number_ready: ready,
            desired_number_scheduled: wanted,
            ..DaemonSetStatus::default()
        };
        let metadata = ObjectMeta { generation: Some(1), ..ObjectMeta::default() };
        DaemonSet { metadata, status: Some(status), spec: None }
    }

    /// Ended too early, the hook would be deleted with the mesh still on some nodes.
    #[test]
    fn a_daemon_set_is_done_when_every_node_is_and_not_before_the_cluster_has_seen_it() {
        let waits = |set: &DaemonSet| matches!(progress(set, &[]), Progress::Waiting(_));
        assert!(waits(&DaemonSet::default()));
        assert!(waits(&set(None, 0, 0)), "its nodes are not counted yet");
        assert_eq!(progress(&set(Some(1), 1, 3), &[]), Progress::Waiting("1 of 3 nodes".to_owned()));
        assert_eq!(progress(&set(Some(1), 3, 3), &["down".to_owned()]), Progress::Done);
        assert_eq!(progress(&set(Some(1), 0, 0), &[]), Progress::Done, "a cluster without such nodes");
    }

    /// Else one machine that is off keeps the mesh from being uninstalled.
    #[test]
    fn nodes_that_are_down_are_not_waited_for() {
        let down = ["off".to_owned()];
        assert_eq!(progress(&set(Some(1), 2, 3), &down), Progress::DoneBut("off".to_owned()));
        assert!(matches!(progress(&set(Some(1), 1, 3), &down), Progress::Waiting(_)), "one of them is up");
    }

    #[test]
    fn a_daemon_set_is_named_with_its_namespace() {
        assert!("ztunnel-system/ztunnel-uninstall".parse::<ObjectName>().is_ok());
        for wrong in ["", "name", "/name", "namespace/"] {
            assert!(wrong.parse::<ObjectName>().is_err(), "{wrong}");
        }
    }
}
