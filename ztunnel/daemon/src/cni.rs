//! The pods that a CNI's agent hands over, as the list of this node's pods.
//!
//! A pod's network namespace comes as a descriptor. It is kept for as long as the pod is on the list, which names the
//! namespace by it.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::fs::MetadataExt,
    },
    sync::{Arc, OnceLock},
};

use control::{CniPod, CniPods, LocalPod, ZdsStatus};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use model::WorkloadUid;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::node::Node;

const CONNECTED: &str = "ztunnel_cni_agent_connected";
const REQUESTS: &str = "ztunnel_cni_requests_total";
const REFUSED: &str = "ztunnel_cni_requests_refused_total";

pub(crate) fn describe() {
    describe_gauge!(
        CONNECTED,
        "1 while the CNI's agent is connected; its pods stay as they are while it is not."
    );
    describe_counter!(REQUESTS, "Requests of the CNI's agent.");
    describe_counter!(REFUSED, "Requests of the CNI's agent that were answered with an error.");
}

pub(crate) fn record_agent(status: &ZdsStatus) {
    gauge!(CONNECTED).set(if status.connected { 1.0 } else { 0.0 });
    counter!(REQUESTS).absolute(status.requests);
    counter!(REFUSED).absolute(status.refused);
}

pub(crate) struct CniList {
    /// As workloads' uids name it.
    cluster_id: String,
    /// By the agent's uid.
    known: Mutex<HashMap<String, Known>>,
    pods: watch::Sender<Arc<Vec<LocalPod>>>,
    /// Who serves them, once it is there.
    node: OnceLock<Arc<Node>>,
}

struct Known {
    local: LocalPod,
    /// Held, as the list names the namespace by it.
    _netns: File,
}

impl CniList {
    pub(crate) fn new(cluster_id: String) -> Arc<Self> {
        let (known, pods, node) = (Mutex::default(), watch::Sender::default(), OnceLock::new());
        Arc::new(Self { cluster_id, known, pods, node })
    }

    pub(crate) fn pods(&self) -> watch::Receiver<Arc<Vec<LocalPod>>> {
        self.pods.subscribe()
    }

    /// From now on pods are added when `node` has tried to serve them.
    pub(crate) fn answer_by(&self, node: &Arc<Node>) {
        // Called once.
        let _ = self.node.set(Arc::clone(node));
    }

    /// Takes the pod onto the list. One that is there already, in the same namespace, stays as it is.
    fn enter(&self, pod: &CniPod, netns: File) -> io::Result<LocalPod> {
        let mut known = self.known.lock();
        let local = self.local(pod, &netns)?;
        if let Some(before) = known.get(&pod.uid)
            && before.local == (LocalPod { netns: before.local.netns.clone(), ..local.clone() })
        {
            return Ok(before.local.clone());
        }
        // A pod that was made anew under its old name takes its place.
        known.retain(|_, other| other.local.uid != local.uid);
        known.insert(pod.uid.clone(), Known { local: local.clone(), _netns: netns });
        self.publish(&known);
        Ok(local)
    }

    fn local(&self, pod: &CniPod, netns: &File) -> io::Result<LocalPod> {
        let CniPod { name, namespace, service_account, .. } = pod;
        let metadata = netns.metadata()?;
        Ok(LocalPod {
            uid: WorkloadUid::new(&format!("{}//Pod/{namespace}/{name}", self.cluster_id)),
            netns: format!("/proc/self/fd/{}", netns.as_raw_fd()).into(),
            // Descriptors are used again.
            netns_identity: Some((metadata.st_dev(), metadata.st_ino())),
            service_account: Some(service_account.clone()),
            ips: Vec::new(),
            fail_mode: control::FailMode::Closed,
            mtls: None,
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
        })
    }

    fn publish(&self, known: &HashMap<String, Known>) {
        let mut pods: Vec<_> = known.values().map(|known| known.local.clone()).collect();
        pods.sort_by(|one, other| one.uid.cmp(&other.uid));
        self.pods.send_replace(Arc::new(pods));
    }
}

impl CniPods for CniList {
    async fn add(&self, pod: CniPod, netns: OwnedFd) -> Result<(), String> {
        let entered = self.enter(&pod, netns.into());
        let local = entered.map_err(|error| format!("the network namespace of pod {}: {error}", pod.name))?;
        match self.node.get() {
            Some(node) => node.tried(&local).await,
            None => Err("the daemon is starting; the pod will be served then".to_owned()),
        }
    }

    fn keeps(&self, uid: &str) -> bool {
        self.known.lock().contains_key(uid)
    }

    async fn remove(&self, uid: &str) {
        let mut known = self.known.lock();
        if known.remove(uid).is_some() {
            self.publish(&known);
        }
    }

    async fn retain(&self, named: &HashSet<String>) {
        let mut known = self.known.lock();
        known.retain(|uid, _| named.contains(uid));
        self.publish(&known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, name: &str) -> CniPod {
        let (namespace, service_account) = ("shop".to_owned(), "cashier".to_owned());
        CniPod { uid: uid.to_owned(), name: name.to_owned(), namespace, service_account }
    }

    fn namespace(kind: &str) -> File {
        File::open(format!("/proc/self/ns/{kind}")).unwrap()
    }

    /// If a pod's namespace were not told from the one it had before, the new pod would be served in the old one's.
    #[test]
    fn the_same_pod_again_changes_nothing_but_another_namespace_does() {
        let list = CniList::new("Kubernetes".to_owned());
        let first = list.enter(&pod("u1", "till"), namespace("net")).unwrap();
        assert_eq!(first.uid.to_string(), "Kubernetes//Pod/shop/till");
        assert_eq!(first.service_account.as_deref(), Some("cashier"));
        let seen = list.pods();
        assert_eq!(list.enter(&pod("u1", "till"), namespace("net")).unwrap(), first);
        assert!(!seen.has_changed().unwrap());
        let moved = list.enter(&pod("u1", "till"), namespace("mnt")).unwrap();
        assert_ne!(moved.netns, first.netns, "a name that the old namespace had");
        assert_eq!(**list.pods().borrow(), [moved]);
    }

    /// Else a pod that comes back under its name, and by chance under its descriptor's number, would not be served: nothing
    /// would seem to have changed.
    #[test]
    fn a_namespace_is_told_from_another_of_the_same_number() {
        let list = CniList::new("Kubernetes".to_owned());
        let [one, other] =
            ["net", "mnt"].map(|kind| list.local(&pod("u1", "till"), &namespace(kind)).unwrap());
        assert_ne!(one, LocalPod { netns: one.netns.clone(), ..other });
    }

    /// A StatefulSet's pod comes back under its name before the agent has said that the old one is gone.
    #[tokio::test]
    async fn a_pod_made_anew_takes_the_place_of_the_old_one() {
        let list = CniList::new("Kubernetes".to_owned());
        list.enter(&pod("old", "till-0"), namespace("net")).unwrap();
        let new = list.enter(&pod("new", "till-0"), namespace("net")).unwrap();
        list.remove("old").await;
        assert_eq!(**list.pods().borrow(), [new]);
        list.retain(&HashSet::new()).await;
        assert!(list.pods().borrow().is_empty());
    }
}
