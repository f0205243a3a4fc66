//! Where the list of this node's pods comes from: a file, a CNI's agent, or Kubernetes.

use std::{path::PathBuf, sync::Arc};

use control::{FileStatus, LocalPod, PodsFile, Zds, ZdsStatus};
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cni::{CniList, record_agent},
    config::{Cni, Config, PodSourceKind},
    discovery::{self, Discovery, DiscoveryStatus, Unplaced},
    node::Node,
    plugin,
};

pub(crate) enum PodSource {
    File(PodsFile),
    Agent { list: Arc<CniList>, socket: PathBuf, status: watch::Sender<ZdsStatus> },
    Kubernetes { discovery: Discovery, cni: Box<Cni> },
}

/// The list, followed for as long as this lives.
pub(crate) enum Following {
    File {
        _pods: PodsFile,
    },
    Agent(Zds),
    Kubernetes {
        _discovery: Discovery,
        _door: Option<AbortOnDropHandle<()>>,
        _installing: Option<AbortOnDropHandle<()>>,
    },
}

/// What the admin endpoint tells of it.
#[derive(Clone)]
pub(crate) enum PodsStatus {
    File(watch::Receiver<FileStatus>),
    Agent(watch::Receiver<ZdsStatus>),
    Kubernetes(watch::Receiver<DiscoveryStatus>),
}

impl PodSource {
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        if config.pod_source == Some(PodSourceKind::Kubernetes) {
            let discovery = Discovery::start(config).await?;
            let mut cni = Box::new(config.cni.clone());
            // A daemon that waits for a daemon would wait for ever: so would the mesh's own pods, and the cluster's.
            cni.plugin = cni.plugin.map(|plugin| plugin.exempting(discovery.never_enrolled()));
            return Ok(Self::Kubernetes { discovery, cni });
        }
        match (&config.pods_file, &config.cni.zds_socket) {
            (Some(file), _) => Ok(Self::File(PodsFile::start(file).await?)),
            (None, Some(socket)) => {
                let list = CniList::new(config.cluster_id.clone());
                Ok(Self::Agent { list, socket: socket.clone(), status: watch::Sender::default() })
            }
            (None, None) => anyhow::bail!("none of podsFile, podSource and cni.zdsSocket is set"),
        }
    }

    pub(crate) fn pods(&self) -> watch::Receiver<Arc<Vec<LocalPod>>> {
        match self {
            Self::File(pods) => pods.pods(),
            Self::Agent { list, .. } => list.pods(),
            Self::Kubernetes { discovery, .. } => discovery.pods(),
        }
    }

    pub(crate) fn status(&self) -> PodsStatus {
        match self {
            Self::File(pods) => PodsStatus::File(pods.status()),
            Self::Agent { status, .. } => PodsStatus::Agent(status.subscribe()),
            Self::Kubernetes { discovery, .. } => PodsStatus::Kubernetes(discovery.status()),
        }
    }

    /// Pods that should be on the list, and cannot be yet.
    pub(crate) fn unplaced(&self) -> watch::Receiver<Arc<Unplaced>> {
        match self {
            Self::File(_) | Self::Agent { .. } => watch::Sender::default().subscribe(),
            Self::Kubernetes { discovery, .. } => discovery.unplaced(),
        }
    }

    /// Waits until the first list can be relied on: pods of a daemon before us that are not on it are let go of.
    pub(crate) async fn first(&self) {
        if let Self::Kubernetes { discovery, .. } = self {
            discovery.complete().await;
        }
    }

    /// The agent is connected to only now, and the plugin answered: they hear when `node` has tried to serve a pod.
    pub(crate) fn follow(self, node: &Arc<Node>) -> Following {
        match self {
            Self::Kubernetes { discovery, cni } => {
                let Cni { plugin, uninstall, .. } = *cni;
                let door = plugin.as_ref().and_then(|plugin| {
                    let opened = discovery.open_door(&plugin.socket, node);
                    // The pods that run are worth serving all the same.
                    opened
                        .inspect_err(|error| {
                            let error = format!("{error:#}");
                            tracing::error!(
                                error,
                                "the CNI plugin is not answered; new pods of the mesh wait"
                            );
                        })
                        .ok()
                });
                let install = plugin.and_then(|plugin| Some((plugin.install.clone()?, plugin)));
                // Only where somebody answers: until then new pods start without us and are found.
                let installing = install.filter(|_| door.is_some()).map(|(install, plugin)| {
                    AbortOnDropHandle::new(tokio::spawn(plugin::keep(plugin, install, Arc::clone(node))))
                });
                let installing = installing.or_else(|| {
                    let away = plugin::keep_away(uninstall?, Arc::clone(node));
                    Some(AbortOnDropHandle::new(tokio::spawn(away)))
                });
                Following::Kubernetes { _discovery: discovery, _door: door, _installing: installing }
            }
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
            Self::Agent(_) | Self::Kubernetes(_) => None,
        }
    }

    /// What the agent's connection counts, if there is one.
    pub(crate) fn record(&self) {
        match self {
            Self::File(_) => {}
            Self::Agent(status) => record_agent(&status.borrow()),
            Self::Kubernetes(status) => discovery::record(&status.borrow()),
        }
    }
}

impl Serialize for PodsStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(status) => status.borrow().serialize(serializer),
            Self::Agent(status) => status.borrow().serialize(serializer),
            Self::Kubernetes(status) => status.borrow().serialize(serializer),
        }
    }
}
