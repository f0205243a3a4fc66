//! This node's pods as Kubernetes knows them, as the list of those that are to be enrolled.
//!
//! - [`follow`] watches the node's pods and the namespaces, and tells the book.
//! - [`book`] decides who is in the mesh, and what is known of where each runs: PURE but for the descriptors it holds.
//! - [`search`] finds the network namespaces of pods that run already.
//! - [`door`] is where the CNI plugin asks, with the network namespace of a pod that is about to start.

mod book;
mod door;
mod follow;
mod search;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use control::LocalPod;
use kubernetes::Own;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use self::book::Book;
pub(crate) use self::book::{DiscoveryStatus, Unplaced};
use crate::{config::Config, node::Node};

const FOLLOWED: &str = "ztunnel_discovery_connected";
const FAILURES: &str = "ztunnel_discovery_failures_total";

pub(crate) fn describe() {
    door::describe();
    describe_gauge!(
        FOLLOWED,
        "1 while the API server tells of this node's pods; they stay as they are while it does not."
    );
    describe_counter!(FAILURES, "Watches of pods and namespaces that failed; each is begun again.");
}

pub(crate) fn record(status: &DiscoveryStatus) {
    gauge!(FOLLOWED).set(if status.complete && status.problem.is_none() { 1.0 } else { 0.0 });
    counter!(FAILURES).absolute(status.failures);
}

pub(crate) struct Discovery {
    book: Arc<Book>,
    own: Own,
    _watching: AbortOnDropHandle<()>,
    _searching: AbortOnDropHandle<()>,
}

impl Discovery {
    /// From here on the API server is watched.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        let section = &config.kubernetes;
        let client = kubernetes::connect(section.kubeconfig.as_deref()).await?;
        let namespace =
            section.own_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let file = config.cni.plugin.as_ref().map(|plugin| plugin.enrolled_namespaces.clone());
        let own = Own { namespace };
        let book = Book::new(config.cluster_id.clone(), own.clone(), file);
        let watching = tokio::spawn(follow::follow(client, config.node_name.clone(), Arc::clone(&book)));
        let searching = tokio::spawn(search::search(Arc::clone(&book), config.node_netns.clone()));
        Ok(Self {
            book,
            own,
            _watching: AbortOnDropHandle::new(watching),
            _searching: AbortOnDropHandle::new(searching),
        })
    }

    /// The namespaces of which no pod is in the mesh, whatever their labels say.
    pub(crate) fn never_enrolled(&self) -> impl Iterator<Item = String> {
        let own = Some(self.own.namespace.clone()).filter(|namespace| !namespace.is_empty());
        kubernetes::SYSTEM_NAMESPACES.map(str::to_owned).into_iter().chain(own)
    }

    pub(crate) fn pods(&self) -> watch::Receiver<Arc<Vec<LocalPod>>> {
        self.book.pods()
    }

    pub(crate) fn unplaced(&self) -> watch::Receiver<Arc<Unplaced>> {
        self.book.unplaced()
    }

    pub(crate) fn status(&self) -> watch::Receiver<DiscoveryStatus> {
        self.book.status()
    }

    /// Waits until the API server has told all pods once, and each that runs has been looked for.
    pub(crate) async fn complete(&self) {
        // The sender is the book's, which is ours.
        let _ = self.book.status().wait_for(|status| status.complete).await;
    }

    /// Answers the CNI plugin, for as long as this lives.
    pub(crate) fn open_door(&self, socket: &Path, node: &Arc<Node>) -> anyhow::Result<AbortOnDropHandle<()>> {
        let door = door::open(socket, Arc::clone(&self.book), Arc::clone(node));
        Ok(AbortOnDropHandle::new(tokio::spawn(door.context("cni.plugin.socket")?)))
    }
}
