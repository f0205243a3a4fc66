//! Where the list of this node's pods comes from: a file, or a CNI's agent.

use std::{path::PathBuf, sync::Arc};

use control::{FileStatus, LocalPod, PodsFile, Zds, ZdsStatus};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::{
    cni::{CniList, record_agent},
    config::Config,
    node::Node,
};

pub(crate) enum PodSource {
    File(PodsFile),
    Agent { list: Arc<CniList>, socket: PathBuf, status: watch::Sender<ZdsStatus> },
}

/// The list, followed for as long as this lives.
pub(crate) enum Following {
    File { _pods: PodsFile },
    Agent(Zds),
}

/// What the admin endpoint tells of it.
#[derive(Clone)]
pub(crate) enum PodsStatus {
    File(watch::Receiver<FileStatus>),
    Agent(watch::Receiver<ZdsStatus>),
}

impl PodSource {
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        match (&config.pods_file, &config.cni.zds_socket) {
            (Some(file), _) => Ok(Self::File(PodsFile::start(file).await?)),
            (None, Some(socket)) => {
                let list = CniList::new(config.cluster_id.clone());
                Ok(Self::Agent { list, socket: socket.clone(), status: watch::Sender::default() })
            }
            (None, None) => anyhow::bail!("neither podsFile nor cni.zdsSocket is set"),
        }
    }

    pub(crate) fn pods(&self) -> watch::Receiver<Arc<Vec<LocalPod>>> {
        match self {
            Self::File(pods) => pods.pods(),
            Self::Agent { list, .. } => list.pods(),
        }
    }

    pub(crate) fn status(&self) -> PodsStatus {
        match self {
            Self::File(pods) => PodsStatus::File(pods.status()),
            Self::Agent { status, .. } => PodsStatus::Agent(status.subscribe()),
        }
    }

    /// The agent is connected to only now: it is answered when `node` has tried to serve a pod.
    pub(crate) fn follow(self, node: &Arc<Node>) -> Following {
        match self {
            Self::File(pods) => Following::File { _pods: pods },
            Self::Agent { list, socket, status } => {
                list.answer_by(node);
                Following::Agent(Zds::start(&socket, list, status))
            }
        }
    }
}

impl Following {
    /// Waits until the agent has named all its pods once. A file names them at once.
    pub(crate) async fn complete(&self) {
        if let Self::Agent(zds) = self {
            // It ends only if we do.
            let _ = zds.status().wait_for(|status| status.complete.is_some()).await;
        }
    }
}

impl PodsStatus {
    /// Of the file, if there is one.
    pub(crate) fn file(&self) -> Option<FileStatus> {
        match self {
            Self::File(status) => Some(status.borrow().clone()),
            Self::Agent(_) => None,
        }
    }

    /// What the agent's connection counts, if there is one.
    pub(crate) fn record(&self) {
        if let Self::Agent(status) = self {
            record_agent(&status.borrow());
        }
    }
}

impl Serialize for PodsStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(status) => status.borrow().serialize(serializer),
            Self::Agent(status) => status.borrow().serialize(serializer),
        }
    }
}
