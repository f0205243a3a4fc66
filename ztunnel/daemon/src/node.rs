//! This node's pods: enrolled, served, watched over and let go, as the pods file and their namespaces say.
//!
//! A change of a pod's settings is a small takeover from ourselves: the pod is enrolled anew, and the old service
//! ends when its connections have.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use control::{Certificates, LocalPod};
use model::{SharedSnapshot, WorkloadUid, authorize::MtlsMode};
use parking_lot::Mutex;
use proxy::{LocalWorkload, Proxy, Stop};
use redirect::{EnrolledPod, FailMode, Finding, PodSpec, Redirector};
use telemetry::Ledgers;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{sockets::Sockets, status::PodStatus, verdicts};

/// How soon a pod whose enrolment failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How often a pod that is being let go is asked whether its connections have ended.
const LINGER_POLL: Duration = Duration::from_millis(100);

pub(crate) struct Node {
    pub(crate) redirector: Arc<Redirector>,
    pub(crate) proxy: Arc<Proxy<Certificates>>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) snapshot: Arc<SharedSnapshot>,
    /// Where connections are served.
    pub(crate) data_plane: Handle,
    pub(crate) inspection_interval: Duration,
    pub(crate) drain_deadline: Duration,
    /// Fired once: peers are asked to go elsewhere, and no new pod is enrolled.
    pub(crate) drain: CancellationToken,
    enrolled: Mutex<HashMap<WorkloadUid, Enrolled>>,
    problems: Mutex<BTreeMap<WorkloadUid, String>>,
    /// Services that are ending.
    leaving: TaskTracker,
}

#[derive(Clone)]
struct Enrolled {
    desired: LocalPod,
    pod: Arc<EnrolledPod>,
    stop: Stop,
    service: Arc<JoinHandle<()>>,
}

/// What the node is made of, before it has any pod.
pub(crate) struct Parts {
    pub(crate) redirector: Arc<Redirector>,
    pub(crate) proxy: Arc<Proxy<Certificates>>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) snapshot: Arc<SharedSnapshot>,
    pub(crate) data_plane: Handle,
    pub(crate) inspection_interval: Duration,
    pub(crate) drain_deadline: Duration,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            redirector,
            proxy,
            ledgers,
            certificates,
            snapshot,
            data_plane,
            inspection_interval,
            drain_deadline,
        } = parts;
        Arc::new(Self {
            redirector,
            proxy,
            ledgers,
            certificates,
            snapshot,
            data_plane,
            inspection_interval,
            drain_deadline,
            drain: CancellationToken::new(),
            enrolled: Mutex::default(),
            problems: Mutex::default(),
            leaving: TaskTracker::new(),
        })
    }

    /// Enrols the first list of pods, then attaches the node's programs.
    pub(crate) async fn start(self: &Arc<Self>, desired: &[LocalPod]) -> Result<(), redirect::RedirectError> {
        self.reconcile(desired).await;
        let pods: Vec<_> = self.enrolled.lock().values().map(|enrolled| Arc::clone(&enrolled.pod)).collect();
        let pods: Vec<&EnrolledPod> = pods.iter().map(AsRef::as_ref).collect();
        self.redirector.activate(&pods)
    }

    /// Follows the list and watches over the pods, forever.
    pub(crate) async fn run(self: Arc<Self>, mut desired: watch::Receiver<Arc<Vec<LocalPod>>>) {
        let mut inspections = interval(self.inspection_interval);
        inspections.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retries = interval(RETRY_INTERVAL);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let list = Arc::clone(&desired.borrow_and_update());
                    self.reconcile(&list).await;
                }
                _ = retries.tick() => {
                    if !self.problems.lock().is_empty() {
                        let list = Arc::clone(&desired.borrow());
                        self.reconcile(&list).await;
                    }
                    self.keep_certificates();
                }
                _ = inspections.tick() => self.inspect_all().await,
            }
        }
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
        self.leaving.close();
        self.leaving.wait().await;
    }

    pub(crate) fn status(&self) -> Vec<PodStatus> {
        let problems = self.problems.lock();
        let enrolled = self.enrolled.lock();
        let uids: BTreeSet<_> = problems.keys().chain(enrolled.keys()).collect();
        uids.into_iter()
            .map(|uid| PodStatus {
                uid: uid.clone(),
                settings: enrolled.get(uid).map(|enrolled| enrolled.desired.clone()),
                enrolled: enrolled.contains_key(uid),
                problem: problems.get(uid).cloned(),
                connections: self.ledgers.count_for(uid),
            })
            .collect()
    }

    /// Makes the enrolled pods those of the list. One that fails does not hold up the others.
    async fn reconcile(self: &Arc<Self>, desired: &[LocalPod]) {
        let wanted: HashMap<&WorkloadUid, &LocalPod> = desired.iter().map(|pod| (&pod.uid, pod)).collect();
        let gone: Vec<_> = {
            let enrolled = self.enrolled.lock();
            enrolled.keys().filter(|uid| !wanted.contains_key(uid)).cloned().collect()
        };
        for uid in gone {
            self.let_go(&uid);
        }
        self.problems.lock().retain(|uid, _| wanted.contains_key(uid));
        for pod in desired {
            let current = self.enrolled.lock().get(&pod.uid).cloned();
            if current.as_ref().is_some_and(|current| current.desired == *pod) || self.drain.is_cancelled() {
                continue;
            }
            self.enrol(pod, current).await;
        }
        self.keep_certificates();
    }

    /// Enrols a pod, in the place of what served it until now.
    async fn enrol(self: &Arc<Self>, desired: &LocalPod, previous: Option<Enrolled>) {
        let started = Instant::now();
        let pod = match self.redirector.enrol(spec_of(desired)).await {
            Ok(pod) => Arc::new(pod),
            Err(error) => {
                let reason = error.reason();
                let before = self.problems.lock().insert(desired.uid.clone(), error.to_string());
                if before.is_none() {
                    tracing::error!(pod = %desired.uid, reason, %error, "enrolment failed; trying again");
                }
                return;
            }
        };
        let stop = Stop { drain: self.drain.child_token(), cut: CancellationToken::new() };
        let local = LocalWorkload { uid: desired.uid.clone(), mtls: desired.mtls };
        let sockets = Arc::new(Sockets(Arc::clone(&pod)));
        let service = self.data_plane.spawn(Arc::clone(&self.proxy).serve(local, sockets, stop.clone()));
        let enrolled = Enrolled { desired: desired.clone(), pod, stop, service: Arc::new(service) };
        self.enrolled.lock().insert(desired.uid.clone(), enrolled);
        self.problems.lock().remove(&desired.uid);
        tracing::info!(pod = %desired.uid, netns = %desired.netns.display(), took = ?started.elapsed(), "pod enrolled");
        if let Some(previous) = previous {
            self.supersede(desired, previous);
        }
    }

    /// The old service of a pod that was enrolled anew. A pod that turned strict loses what is open in plaintext;
    /// one that moved to another namespace leaves the old one.
    fn supersede(self: &Arc<Self>, desired: &LocalPod, previous: Enrolled) {
        let moved = previous.desired.netns != desired.netns || previous.desired.ips != desired.ips;
        let turned_strict = desired.mtls == MtlsMode::Strict && previous.desired.mtls != MtlsMode::Strict;
        previous.stop.drain.cancel();
        if moved || turned_strict {
            previous.stop.cut.cancel();
        }
        let node = Arc::clone(self);
        self.leaving.spawn(async move {
            if moved && let Err(error) = node.redirector.stop_capture(&previous.pod) {
                tracing::error!(pod = %previous.desired.uid, %error, "the pod's old namespace stays enrolled");
            }
            node.linger(&previous).await;
            if moved {
                node.clean_up(&previous).await;
            }
        });
    }

    /// The pod is no longer ours: nothing new is captured, and what is open may end by itself if the pod lives on.
    fn let_go(self: &Arc<Self>, uid: &WorkloadUid) {
        let Some(enrolled) = self.enrolled.lock().remove(uid) else { return };
        if let Err(error) = self.redirector.stop_capture(&enrolled.pod) {
            tracing::error!(pod = %uid, %error, "cannot stop capturing");
        }
        enrolled.stop.drain.cancel();
        let node = Arc::clone(self);
        self.leaving.spawn(async move {
            node.linger(&enrolled).await;
            node.clean_up(&enrolled).await;
            tracing::info!(pod = %enrolled.desired.uid, "pod let go");
        });
    }

    /// Until the last connection, the deadline or the end of the namespace, whichever comes first.
    async fn linger(&self, enrolled: &Enrolled) {
        let uid = &enrolled.desired.uid;
        let deadline = Instant::now() + self.drain_deadline;
        let ended = async {
            while enrolled.pod.namespace().is_named() && self.ledgers.count_for(uid) > 0 {
                sleep(LINGER_POLL).await;
            }
        };
        tokio::select! {
            _ = timeout_at(deadline, ended) => {}
            () = enrolled.stop.cut.cancelled() => {}
        }
        enrolled.stop.cut.cancel();
        finished(&enrolled.service).await;
    }

    async fn clean_up(&self, enrolled: &Enrolled) {
        if let Err(error) = self.redirector.clean_up(&enrolled.pod).await {
            tracing::error!(pod = %enrolled.desired.uid, reason = error.reason(), %error, "cleaning up failed");
        }
    }

    async fn inspect_all(self: &Arc<Self>) {
        let all: Vec<_> = self.enrolled.lock().values().cloned().collect();
        for enrolled in all {
            let uid = &enrolled.desired.uid;
            match enrolled.pod.inspect().await {
                Ok(findings) => findings.into_iter().for_each(|finding| self.found(uid, finding)),
                Err(error) => {
                    tracing::warn!(pod = %uid, reason = error.reason(), %error, "inspection failed")
                }
            }
        }
    }

    fn found(self: &Arc<Self>, uid: &WorkloadUid, finding: Finding) {
        if finding == Finding::NamespaceGone {
            tracing::info!(pod = %uid, "the pod's namespace is gone");
            self.problems.lock().insert(uid.clone(), "its namespace is gone".to_owned());
            self.let_go(uid);
            return;
        }
        verdicts::tampered(finding.reason());
        tracing::warn!(pod = %uid, finding = finding.reason(), detail = ?finding, "tampering with the redirection was repaired");
    }

    /// Certificates are kept for the identities of the pods that are served, and no others.
    fn keep_certificates(&self) {
        let snapshot = self.snapshot.load();
        let uids: Vec<_> = self.enrolled.lock().keys().cloned().collect();
        let identities: HashSet<_> = uids
            .iter()
            .filter_map(|uid| snapshot.workload(uid))
            .map(|workload| workload.identity.clone())
            .collect();
        for identity in &identities {
            if let Err(error) = self.certificates.prefetch(identity) {
                tracing::warn!(%error, "a local workload will have no certificate");
            }
        }
        self.certificates.retain(&identities);
    }
}

async fn finished(service: &JoinHandle<()>) {
    while !service.is_finished() {
        sleep(Duration::from_millis(5)).await;
    }
}

fn spec_of(pod: &LocalPod) -> PodSpec {
    let v4 = pod.ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    let v6 = pod.ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
    PodSpec {
        uid: pod.uid.clone(),
        netns: pod.netns.clone(),
        v4,
        v6,
        fail_mode: match pod.fail_mode {
            control::FailMode::Closed => FailMode::Closed,
            control::FailMode::Open => FailMode::Open,
        },
        strict: pod.mtls == MtlsMode::Strict,
        excluded_outbound: pod.exclude_outbound_ports.clone(),
        excluded_inbound: pod.exclude_inbound_ports.clone(),
    }
}
