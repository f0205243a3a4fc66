//! This node's pods: enrolled, served, watched over and let go, as the pods file and their namespaces say.
//!
//! A pod has one service at a time. What may change of its settings changes under that service; a pod that moved to
//! another namespace is let go and enrolled anew.

mod keeping;
mod leaving;
mod settling;
mod strictness;
mod succession;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use control::{Certificates, LocalPod};
use metrics::{describe_gauge, gauge};
use model::{SharedSnapshot, SpiffeId, WorkloadUid, authorize::MtlsMode};
use parking_lot::Mutex;
use proxy::{Proxy, Stop};
use redirect::{EnrolledPod, OlderConnection, RedirectError, Redirection};
use telemetry::Ledgers;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{leaving::Leaving, settling::Settling};
use crate::{discovery::Unplaced, status::PodStatus};

/// How soon a pod whose enrolment failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

const TROUBLED: &str = "ztunnel_pods_not_served";

pub(crate) fn describe() {
    describe_gauge!(TROUBLED, "Pods that should be served and are not; `ztunnel pods` says why.");
}

pub(crate) struct Node {
    pub(crate) parts: Parts,
    /// Fired once: peers are asked to go elsewhere, and no new pod is enrolled.
    pub(crate) drain: CancellationToken,
    enrolled: Mutex<HashMap<WorkloadUid, Enrolled>>,
    problems: Mutex<BTreeMap<WorkloadUid, String>>,
    /// Of the pods that are served, as the mesh state had them last.
    identities: Mutex<HashMap<WorkloadUid, SpiffeId>>,
    leaving: Mutex<HashMap<WorkloadUid, Leaving>>,
    /// The tasks of those that are leaving.
    endings: TaskTracker,
    told_superseded: AtomicBool,
    strangers_forgotten: AtomicBool,
    told_strangers: AtomicBool,
    /// The list is to be gone through although it has not changed.
    again: Notify,
    settling: Settling,
}

#[derive(Clone)]
struct Enrolled {
    desired: LocalPod,
    pod: Arc<EnrolledPod>,
    stop: Stop,
    mtls: watch::Sender<Option<MtlsMode>>,
    /// What the kernel was told last.
    strict: bool,
    service: Arc<JoinHandle<()>>,
}

/// What the node is made of, before it has any pod.
pub(crate) struct Parts {
    pub(crate) redirector: Arc<Redirection>,
    pub(crate) proxy: Arc<Proxy<Certificates>>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) snapshot: Arc<SharedSnapshot>,
    /// If it is enabled.
    pub(crate) dns: Option<Arc<dns::Server>>,
    /// Where connections are served.
    pub(crate) data_plane: Handle,
    pub(crate) inspection_interval: Duration,
    pub(crate) drain_deadline: Duration,
    /// Pods that should be on the list, and cannot be yet.
    pub(crate) unplaced: watch::Receiver<Arc<Unplaced>>,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            drain: CancellationToken::new(),
            enrolled: Mutex::default(),
            problems: Mutex::default(),
            identities: Mutex::default(),
            leaving: Mutex::default(),
            endings: TaskTracker::new(),
            told_superseded: AtomicBool::new(false),
            strangers_forgotten: AtomicBool::new(false),
            told_strangers: AtomicBool::new(false),
            again: Notify::new(),
            settling: Settling::default(),
        })
    }

    /// Enrols the first list of pods, then attaches the node's programs.
    pub(crate) async fn start(self: &Arc<Self>, desired: &Arc<Vec<LocalPod>>) -> Result<(), RedirectError> {
        self.reconcile(desired);
        for pod in desired.iter() {
            self.settling.tried(pod).await;
        }
        self.parts.redirector.activate(&borrowed(&self.pods()))?;
        self.forget_strangers();
        Ok(())
    }

    /// Follows the list, forever.
    pub(crate) async fn run(self: Arc<Self>, mut desired: watch::Receiver<Arc<Vec<LocalPod>>>) {
        let mut retries = interval(RETRY_INTERVAL);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let list = Arc::clone(&desired.borrow_and_update());
                    self.reconcile(&list);
                }
                () = self.again.notified() => {
                    let list = Arc::clone(&desired.borrow());
                    self.reconcile(&list);
                }
                _ = retries.tick() => {
                    self.try_again();
                    self.forget_strangers();
                    self.keep_certificates();
                    self.keep_strictness();
                }
            }
        }
    }

    /// Waits until `pod`, which is on the list, has been tried as it is, and tells what keeps it from being served.
    pub(crate) async fn tried(&self, pod: &LocalPod) -> Result<(), String> {
        self.settling.tried(pod).await;
        match self.problems.lock().get(&pod.uid) {
            Some(problem) => Err(problem.clone()),
            None if self.drain.is_cancelled() => Err("this daemon is draining".to_owned()),
            None => Ok(()),
        }
    }

    /// No new pod is enrolled, and where another daemon listens in our place, what is new is left to it.
    pub(crate) fn begin_to_drain(&self) {
        self.drain.cancel();
        self.parts.redirector.hand_over();
    }

    /// The connections that passed by us because they are older than their pod's enrolment.
    pub(crate) fn older_connections(&self) -> Vec<(WorkloadUid, Vec<OlderConnection>)> {
        let enrolled = self.enrolled.lock();
        let mut older: Vec<_> =
            enrolled.iter().map(|(uid, enrolled)| (uid.clone(), enrolled.pod.older_connections())).collect();
        older.sort_by(|(one, _), (other, _)| one.cmp(other));
        older
    }

    /// Ends every service now, and waits for the end.
    pub(crate) async fn cut(&self) {
        let all: Vec<_> = self.enrolled.lock().drain().map(|(_, enrolled)| enrolled).collect();
        for enrolled in &all {
            enrolled.stop.cut.cancel();
        }
        for enrolled in all {
            finished(&enrolled.service).await;
        }
        self.cut_leaving();
        self.endings.close();
        self.endings.wait().await;
    }

    pub(crate) fn status(&self) -> Vec<PodStatus> {
        let mut counts: HashMap<WorkloadUid, usize> = HashMap::new();
        for connection in self.parts.ledgers.handles() {
            *counts.entry(connection.local().clone()).or_default() += 1;
        }
        let problems = self.problems.lock();
        let enrolled = self.enrolled.lock();
        let unplaced = self.parts.unplaced.borrow();
        let uids: BTreeSet<_> = problems.keys().chain(enrolled.keys()).chain(unplaced.keys()).collect();
        uids.into_iter()
            .map(|uid| PodStatus {
                uid: uid.clone(),
                settings: enrolled.get(uid).map(|enrolled| enrolled.desired.clone()),
                enrolled: enrolled.contains_key(uid),
                problem: problems.get(uid).or_else(|| Some(&unplaced.get(uid)?.problem)).cloned(),
                connections: counts.get(uid).copied().unwrap_or_default(),
            })
            .collect()
    }

    pub(crate) fn record(&self) {
        let (problems, unplaced) = (self.problems.lock(), self.parts.unplaced.borrow());
        let all: BTreeSet<_> = problems.keys().chain(unplaced.keys()).collect();
        gauge!(TROUBLED).set(u32::try_from(all.len()).unwrap_or(u32::MAX));
    }

    /// One pod's settings, if it is enrolled, and what is wrong with it.
    pub(crate) fn enrolment(&self, uid: &WorkloadUid) -> (Option<LocalPod>, Option<String>) {
        let problem = self.problems.lock().get(uid).cloned();
        (self.enrolled.lock().get(uid).map(|enrolled| enrolled.desired.clone()), problem)
    }

    /// Where each enrolled pod is served, for its neighbours too: not while it is being let go.
    pub(crate) fn served_addresses(&self) -> BTreeMap<WorkloadUid, Vec<IpAddr>> {
        let enrolled = self.enrolled.lock();
        let captured = enrolled.iter().filter(|(_, enrolled)| enrolled.pod.is_captured());
        captured.map(|(uid, enrolled)| (uid.clone(), enrolled.pod.spec().addresses().collect())).collect()
    }

    /// What the node asks for single pods.
    pub(crate) fn mtls_of_pods(&self) -> BTreeMap<WorkloadUid, MtlsMode> {
        let enrolled = self.enrolled.lock();
        enrolled.iter().filter_map(|(uid, enrolled)| Some((uid.clone(), enrolled.desired.mtls?))).collect()
    }

    fn keep(&self, enrolled: Enrolled) {
        self.enrolled.lock().insert(enrolled.desired.uid.clone(), enrolled);
    }

    /// Whether pods that come now are another daemon's to serve.
    pub(crate) fn is_leaving(&self) -> bool {
        self.drain.is_cancelled() || self.is_superseded()
    }

    /// Whether a newer daemon has taken this node over. It follows the list then; we only end what we have.
    fn is_superseded(&self) -> bool {
        let superseded = self.parts.redirector.is_superseded();
        if superseded && !self.told_superseded.swap(true, Ordering::Relaxed) {
            tracing::info!("a newer daemon serves this node; changes of its pods are left to that one");
        }
        superseded
    }

    fn pods(&self) -> Vec<Arc<EnrolledPod>> {
        self.enrolled.lock().values().map(|enrolled| Arc::clone(&enrolled.pod)).collect()
    }
}

impl Enrolled {
    /// Whether the pod is still where it was, so that no more than its settings differ.
    fn is_at_home_of(&self, desired: &LocalPod) -> bool {
        self.desired.ips == desired.ips && self.is_in_namespace_of(desired)
    }

    fn is_in_namespace_of(&self, desired: &LocalPod) -> bool {
        self.desired.netns == desired.netns && self.pod.namespace().is_at(&desired.netns)
    }

    /// Served from now on as `desired` says.
    fn with(&self, desired: &LocalPod, strict: bool) -> Self {
        self.mtls.send_replace(desired.mtls);
        Self { desired: desired.clone(), strict, ..self.clone() }
    }
}

fn borrowed(pods: &[Arc<EnrolledPod>]) -> Vec<&EnrolledPod> {
    pods.iter().map(AsRef::as_ref).collect()
}

async fn finished(service: &JoinHandle<()>) {
    while !service.is_finished() {
        sleep(Duration::from_millis(5)).await;
    }
}
