//! Who of this node's pods is in the mesh, and where each runs.
//!
//! A pod's network namespace comes by the CNI plugin or by a search. It is held by a descriptor from then on, and let go of
//! with the pod, or it would outlive it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    net::IpAddr,
    os::{fd::AsRawFd, linux::fs::MetadataExt},
    path::PathBuf,
    sync::Arc,
};

use control::LocalPod;
use kubernetes::{Change, DATAPLANE_MODE, Own, k8s_openapi::api::core::v1::Pod, membership};
use model::WorkloadUid;
use parking_lot::Mutex;
use redirect::sandbox::Sought;
use serde::Serialize;
use tokio::sync::watch;
use ztunnel_cni::{EnrolledNamespaces, wire::Request};

/// Pods that should be enrolled and cannot be yet.
pub(crate) type Unplaced = BTreeMap<WorkloadUid, UnplacedPod>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnplacedPod {
    /// Why not.
    pub(crate) problem: String,
    pub(crate) ips: Vec<IpAddr>,
}

/// How discovery stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiscoveryStatus {
    /// All pods have been told once, and looked for.
    pub(crate) complete: bool,
    /// Of this node, in the mesh or not.
    pub(crate) pods: usize,
    /// Why the API server does not tell more, if it does not.
    pub(crate) problem: Option<String>,
    /// How often a watch has failed.
    pub(crate) failures: u64,
}

/// Only the label that counts.
#[derive(Debug)]
pub(super) struct KnownNamespace {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
}

pub(super) struct Book {
    /// As workloads' uids name it.
    cluster_id: String,
    own: Own,
    /// Where the plugin looks while no daemon is there.
    file: Option<PathBuf>,
    known: Mutex<Known>,
    pods: watch::Sender<Arc<Vec<LocalPod>>>,
    unplaced: watch::Sender<Arc<Unplaced>>,
    status: watch::Sender<DiscoveryStatus>,
    /// After each change.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Known {
    /// By Kubernetes' uid.
    pods: HashMap<String, Pod>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    homes: HashMap<String, Home>,
    /// Why the last search did not find them, by uid.
    problems: HashMap<String, String>,
    pods_told: bool,
    namespaces_told: bool,
    written: Option<EnrolledNamespaces>,
}

/// Where a pod runs.
struct Home {
    netns: File,
    identity: (u64, u64),
    /// That it is known to have.
    ips: Vec<IpAddr>,
    /// The sandbox, if the plugin named it.
    container: Option<String>,
    /// What the API server said of its addresses when this was found out.
    told: Vec<IpAddr>,
}

/// What the book has of a pod that the plugin asks about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not told of yet.
    Unknown,
    Outside,
    Inside {
        uid: String,
    },
}

impl Book {
    pub(super) fn new(cluster_id: String, own: Own, file: Option<PathBuf>) -> Arc<Self> {
        let (known, pods, unplaced) = (Mutex::default(), watch::Sender::default(), watch::Sender::default());
        let (status, changes) = (watch::Sender::default(), watch::Sender::default());
        Arc::new(Self { cluster_id, own, file, known, pods, unplaced, status, changes })
    }

    pub(super) fn pods(&self) -> watch::Receiver<Arc<Vec<LocalPod>>> {
        self.pods.subscribe()
    }

    pub(super) fn unplaced(&self) -> watch::Receiver<Arc<Unplaced>> {
        self.unplaced.subscribe()
    }

    pub(super) fn status(&self) -> watch::Receiver<DiscoveryStatus> {
        self.status.subscribe()
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn told_of_pods(&self, change: Change<Pod>) {
        let mut known = self.known.lock();
        match change {
            Change::Complete(pods) => {
                known.pods = pods.into_iter().filter_map(|pod| Some((uid_of(&pod)?, pod))).collect();
                known.pods_told = true;
            }
            Change::Applied(pod) => drop(uid_of(&pod).and_then(|uid| known.pods.insert(uid, pod))),
            Change::Deleted(pod) => drop(uid_of(&pod).and_then(|uid| known.pods.remove(&uid))),
            Change::Failed(trouble) => return self.failed(trouble.to_string()),
        }
        self.publish(&mut known);
    }

    pub(super) fn told_of_namespaces(&self, change: Change<KnownNamespace>) {
        let mut known = self.known.lock();
        match change {
            Change::Complete(all) => {
                known.namespaces =
                    all.into_iter().map(|namespace| (namespace.name, namespace.labels)).collect();
                known.namespaces_told = true;
            }
            Change::Applied(namespace) => drop(known.namespaces.insert(namespace.name, namespace.labels)),
            Change::Deleted(namespace) => drop(known.namespaces.remove(&namespace.name)),
            Change::Failed(trouble) => return self.failed(trouble.to_string()),
        }
        self.publish(&mut known);
    }

    /// Those that run, have an address, and are where nobody knows. `None` until the API server has told all.
    pub(super) fn sought(&self) -> Option<Vec<Sought>> {
        let known = self.known.lock();
        if !known.is_told() {
            return None;
        }
        let missing = known.pods.iter().filter(|(uid, pod)| {
            let in_doubt = known.homes.get(*uid).is_none_or(|home| home.is_in_doubt(pod));
            in_doubt && self.is_in_mesh(&known, pod) && !addresses(pod).is_empty()
        });
        let sought = missing.map(|(uid, pod)| Sought {
            uid: uid.clone(),
            ips: addresses(pod),
            own_users: pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false)),
        });
        Some(sought.collect())
    }

    /// What a search has found.
    pub(super) fn found(&self, sought: &[Sought], mut found: HashMap<String, Result<File, String>>) {
        let mut known = self.known.lock();
        let before = std::mem::take(&mut known.problems);
        for Sought { uid, ips, .. } in sought {
            let Some(result) = found.remove(uid) else { continue };
            let home = result
                .and_then(|netns| Home::new(netns, ips.clone(), None).map_err(|error| error.to_string()));
            match home {
                Ok(home) => known.found(uid, home),
                // It has one, which may be right.
                Err(_) if known.homes.contains_key(uid) => {}
                Err(problem) => {
                    if before.get(uid) != Some(&problem) {
                        tracing::warn!(uid, problem, "a pod that runs is not enrolled; trying again");
                    }
                    known.problems.insert(uid.clone(), problem);
                }
            }
        }
        self.publish(&mut known);
    }

    /// Everybody has been looked for once.
    pub(super) fn looked(&self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.complete, true));
    }

    pub(super) fn standing(&self, request: &Request) -> Standing {
        // Whatever the API server would tell, if it did.
        if self.own.leaves_out(&request.namespace) || is_static(request) {
            return Standing::Outside;
        }
        let known = self.known.lock();
        let Some((uid, pod)) = known.named(request) else { return Standing::Unknown };
        // Whether it is in the mesh may depend on a label of its namespace, and that comes by another watch.
        if !known.is_told() || !known.namespaces.contains_key(&request.namespace) {
            return Standing::Unknown;
        }
        if self.is_in_mesh(&known, pod) { Standing::Inside { uid: uid.clone() } } else { Standing::Outside }
    }

    /// Whether a pod that nobody has told of may be in the mesh. As while no daemon is there, its namespace decides; one that
    /// is not known either may have been made just now, unless nobody tells of any.
    pub(super) fn may_be_in_mesh(&self, request: &Request) -> bool {
        let known = self.known.lock();
        if known.is_told() && known.namespaces.contains_key(&request.namespace) {
            return self.enrolled_namespaces(&known).contains(&request.namespace);
        }
        self.status.borrow().problem.is_none()
    }

    /// The pod runs there from now on. Answers with it as it is to be enrolled.
    pub(super) fn place(&self, uid: &str, request: &Request, netns: File) -> Result<LocalPod, String> {
        let mut known = self.known.lock();
        let container = Some(request.container.clone());
        let mut home = Home::new(netns, request.addresses.clone(), container)
            .map_err(|error| format!("its network namespace: {error}"))?;
        // The same again keeps its descriptor, by which it is enrolled.
        if let Some(before) = known.homes.remove(uid).filter(|before| before.identity == home.identity) {
            home.netns = before.netns;
        }
        let pod = known.pods.get(uid).ok_or("it was deleted meanwhile")?;
        home.told = addresses(pod);
        let local = self.local(pod, &home).ok_or("it has no IP address")?;
        known.homes.insert(uid.to_owned(), home);
        self.publish(&mut known);
        Ok(local)
    }

    /// The sandbox goes. A pod that has another by now stays, and so does one whose sandbox is not known: sandboxes that ended
    /// long ago are taken down again and again while their pod runs.
    pub(super) fn leave(&self, request: &Request) {
        let mut known = self.known.lock();
        let Some(uid) = known.named(request).map(|(uid, _)| uid.clone()) else { return };
        let is_its = |home: &Home| home.container.as_ref() == Some(&request.container);
        if known.homes.get(&uid).is_some_and(is_its) {
            known.homes.remove(&uid);
            self.publish(&mut known);
        }
    }

    pub(super) fn uid_of(&self, request: &Request) -> WorkloadUid {
        self.uid_in(&request.namespace, &request.name)
    }

    fn failed(&self, problem: String) {
        self.status.send_modify(|status| {
            status.problem = Some(problem);
            status.failures += 1;
        });
    }

    fn is_in_mesh(&self, known: &Known, pod: &Pod) -> bool {
        let none = BTreeMap::new();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        membership(known.namespaces.get(namespace).unwrap_or(&none), pod, &self.own).is_ok()
    }

    fn publish(&self, known: &mut Known) {
        let gone: Vec<String> = {
            let stays = |uid: &String, home: &Home| {
                let pod = known.pods.get(uid).filter(|pod| self.is_in_mesh(known, pod));
                pod.is_some_and(|pod| home.is_still_of(pod))
            };
            let gone = known.homes.iter().filter(|(uid, home)| !stays(uid, home));
            gone.map(|(uid, _)| uid.clone()).collect()
        };
        let count = known.pods.len();
        if known.is_told() {
            self.publish_lists(known);
            self.status.send_if_modified(|status| {
                let changed = status.pods != count || status.problem.is_some();
                (status.pods, status.problem) = (count, None);
                changed
            });
            self.write(known);
        }
        // Closed only when the list no longer names them by their descriptors.
        for uid in gone {
            known.homes.remove(&uid);
        }
        self.changes.send_replace(());
    }

    fn publish_lists(&self, known: &Known) {
        let (mut pods, mut unplaced) = (Vec::new(), Unplaced::new());
        for (uid, pod) in known.pods.iter().filter(|(_, pod)| self.is_in_mesh(known, pod)) {
            match known
                .homes
                .get(uid)
                .filter(|home| home.is_still_of(pod))
                .and_then(|home| self.local(pod, home))
            {
                Some(local) => pods.push(local),
                // Without an address it has not begun to run.
                None if addresses(pod).is_empty() => {}
                None => {
                    let problem = known.problems.get(uid).cloned();
                    let problem = problem.unwrap_or_else(|| "no process of it is found yet".to_owned());
                    unplaced.insert(self.workload_uid(pod), UnplacedPod { problem, ips: addresses(pod) });
                }
            }
        }
        pods.sort_by(|one, other| one.uid.cmp(&other.uid));
        self.unplaced.send_if_modified(|before| replace(before, unplaced));
        self.pods.send_if_modified(|before| replace(before, pods));
    }

    fn local(&self, pod: &Pod, home: &Home) -> Option<LocalPod> {
        let ips = home.ips.clone();
        let service_account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        (!ips.is_empty()).then(|| LocalPod {
            uid: self.workload_uid(pod),
            netns: format!("/proc/self/fd/{}", home.netns.as_raw_fd()).into(),
            netns_identity: Some(home.identity),
            service_account: Some(service_account.unwrap_or_else(|| "default".to_owned())),
            ips,
            fail_mode: control::FailMode::Closed,
            mtls: None,
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
        })
    }

    fn workload_uid(&self, pod: &Pod) -> WorkloadUid {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.uid_in(namespace, name)
    }

    fn uid_in(&self, namespace: &str, name: &str) -> WorkloadUid {
        WorkloadUid::new(&format!("{}//Pod/{namespace}/{name}", self.cluster_id))
    }

    /// Whose pods may be in the mesh.
    fn enrolled_namespaces(&self, known: &Known) -> BTreeSet<String> {
        let is_labelled = |labels: &BTreeMap<String, String>| {
            labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == "ambient")
        };
        let labelled = known.namespaces.iter().filter(|(_, labels)| is_labelled(labels));
        let mut namespaces: BTreeSet<String> = labelled.map(|(name, _)| name.clone()).collect();
        // A pod may be in the mesh by a label of its own, and those after it will be like it.
        let inside = known.pods.values().filter(|pod| self.is_in_mesh(known, pod));
        namespaces.extend(inside.filter_map(|pod| pod.metadata.namespace.clone()));
        namespaces
    }

    /// A file that cannot be written costs the next pods without a daemon, not this one.
    fn write(&self, known: &mut Known) {
        let Some(path) = &self.file else { return };
        let enrolled = EnrolledNamespaces { namespaces: self.enrolled_namespaces(known) };
        if known.written.as_ref() == Some(&enrolled) {
            return;
        }
        match enrolled.write(path) {
            Ok(()) => known.written = Some(enrolled),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the list of enrolled namespaces cannot be written");
            }
        }
    }
}

impl Known {
    fn is_told(&self) -> bool {
        self.pods_told && self.namespaces_told
    }

    /// The plugin may have come first; then its home is the pod's, unless the search has shown that it is not.
    fn found(&mut self, uid: &str, mut home: Home) {
        let Some(pod) = self.pods.get(uid) else { return };
        home.told.clone_from(&home.ips);
        match self.homes.get_mut(uid) {
            Some(before) if before.identity == home.identity => before.told = home.told,
            Some(before) if !before.is_in_doubt(pod) || !home.is_still_of(pod) => {}
            Some(_) | None => drop(self.homes.insert(uid.to_owned(), home)),
        }
    }

    fn named(&self, request: &Request) -> Option<(&String, &Pod)> {
        let is_named = |pod: &Pod| {
            pod.metadata.name.as_ref() == Some(&request.name)
                && pod.metadata.namespace.as_ref() == Some(&request.namespace)
        };
        match &request.uid {
            Some(uid) => self.pods.get_key_value(uid).filter(|(_, pod)| is_named(pod)),
            None => self.pods.iter().find(|(_, pod)| is_named(pod)),
        }
    }
}

impl Home {
    fn new(netns: File, mut ips: Vec<IpAddr>, container: Option<String>) -> io::Result<Self> {
        let metadata = netns.metadata()?;
        ips.sort_unstable();
        Ok(Self { identity: (metadata.st_dev(), metadata.st_ino()), netns, ips, container, told: Vec::new() })
    }

    /// A pod whose sandbox was made anew has other addresses, and runs elsewhere. The plugin knows of that before the API
    /// server does.
    fn is_still_of(&self, pod: &Pod) -> bool {
        self.container.is_some() || self.ips == addresses(pod)
    }

    /// Whether the pod may have moved and the plugin's word of it was lost: the API server has told of other addresses since.
    fn is_in_doubt(&self, pod: &Pod) -> bool {
        let now = addresses(pod);
        now != self.told && now.iter().any(|ip| !self.ips.contains(ip))
    }
}

/// Made from a file on the node. The kubelet makes its uid up, without the dashes of those that the API server gives.
fn is_static(request: &Request) -> bool {
    request.uid.as_ref().is_some_and(|uid| !uid.contains('-'))
}

fn uid_of(pod: &Pod) -> Option<String> {
    pod.metadata.uid.clone()
}

/// In an order of their own: another order is no change.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = all.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn replace<T: PartialEq>(before: &mut Arc<T>, now: T) -> bool {
    let differs = **before != now;
    *before = Arc::new(now);
    differs
}

#[cfg(test)]
mod tests;
