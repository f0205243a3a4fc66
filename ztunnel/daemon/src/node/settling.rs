//! Making the pods that are served those of the list. Each is settled by a task of its own, and what may take long there has a
//! deadline: a pod that is slow, or that fails again and again, holds up no other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use control::LocalPod;
use model::WorkloadUid;
use parking_lot::Mutex;
use proxy::{LocalWorkload, Stop};
use redirect::{EnrolledPod, RedirectError};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Enrolled, Node};
use crate::sockets::{DnsSockets, Sockets};

/// Pods that are enrolled at the same time.
const AT_ONCE: usize = 16;
/// Of those that have failed before. They do not take the places of the others.
const AGAIN_AT_ONCE: usize = 4;
/// For the end of what was there before.
const EVICTION_DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Settling {
    /// As the list has them.
    wanted: Mutex<HashMap<WorkloadUid, LocalPod>>,
    under_way: Mutex<HashSet<WorkloadUid>>,
    /// As they were tried last, whatever came of it.
    tried: watch::Sender<HashMap<WorkloadUid, LocalPod>>,
    places: Semaphore,
    places_again: Semaphore,
}

impl Default for Settling {
    fn default() -> Self {
        Self {
            wanted: Mutex::default(),
            under_way: Mutex::default(),
            tried: watch::Sender::default(),
            places: Semaphore::new(AT_ONCE),
            places_again: Semaphore::new(AGAIN_AT_ONCE),
        }
    }
}

impl Settling {
    /// Waits until `pod` has been tried as it is.
    pub(super) async fn tried(&self, pod: &LocalPod) {
        let mut tried = self.tried.subscribe();
        // The sender is ours, so it is there.
        let _ = tried.wait_for(|tried| tried.get(&pod.uid) == Some(pod)).await;
    }

    /// Those of the list that are not among the `served`.
    pub(super) fn missing(&self, served: impl Fn(&WorkloadUid) -> bool) -> Vec<LocalPod> {
        self.wanted.lock().values().filter(|pod| !served(&pod.uid)).cloned().collect()
    }

    fn wanted(&self, uid: &WorkloadUid) -> Option<LocalPod> {
        self.wanted.lock().get(uid).cloned()
    }

    /// Whether nothing has changed meanwhile. Then it is done with.
    fn is_done(&self, uid: &WorkloadUid, as_tried: Option<LocalPod>) -> bool {
        let mut under_way = self.under_way.lock();
        if self.wanted(uid) != as_tried {
            return false;
        }
        under_way.remove(uid);
        if let Some(pod) = as_tried {
            self.tried.send_modify(|tried| drop(tried.insert(uid.clone(), pod)));
        }
        true
    }
}

impl Node {
    /// Makes the enrolled pods those of the list, each in its own time.
    pub(super) fn reconcile(self: &Arc<Self>, desired: &[LocalPod]) {
        let wanted: HashMap<_, _> = desired.iter().map(|pod| (pod.uid.clone(), pod.clone())).collect();
        self.settling.wanted.lock().clone_from(&wanted);
        let is_leaving = self.is_leaving();
        if !self.is_superseded() {
            let is_gone = |uid: &&WorkloadUid| !wanted.contains_key(*uid);
            let gone: Vec<_> = self.enrolled.lock().keys().filter(is_gone).cloned().collect();
            gone.iter().for_each(|uid| self.let_go(uid));
            self.problems.lock().retain(|uid, _| wanted.contains_key(uid));
        }
        let is_to_be_tried = |pod: &&LocalPod| !is_leaving && self.differs(pod);
        let (differing, others): (Vec<_>, Vec<_>) = desired.iter().partition(is_to_be_tried);
        self.settling.tried.send_modify(|tried| {
            tried.retain(|uid, _| wanted.contains_key(uid));
            tried.extend(others.into_iter().map(|pod| (pod.uid.clone(), pod.clone())));
        });
        for pod in differing {
            self.settle_soon(&pod.uid, false);
        }
    }

    /// Those that failed.
    pub(super) fn try_again(self: &Arc<Self>) {
        let failed: Vec<_> = self.problems.lock().keys().cloned().collect();
        failed.iter().for_each(|uid| self.settle_soon(uid, true));
    }

    fn differs(&self, pod: &LocalPod) -> bool {
        self.enrolled.lock().get(&pod.uid).is_none_or(|current| current.desired != *pod)
    }

    fn settle_soon(self: &Arc<Self>, uid: &WorkloadUid, again: bool) {
        // Whoever is at it looks at the list once more.
        if !self.settling.under_way.lock().insert(uid.clone()) {
            return;
        }
        let (node, uid) = (Arc::clone(self), uid.clone());
        tokio::spawn(async move {
            let settling = &node.settling;
            let places = if again { &settling.places_again } else { &settling.places };
            // Never closed.
            let _place = places.acquire().await;
            loop {
                let wanted = settling.wanted(&uid);
                match &wanted {
                    _ if node.is_leaving() => {}
                    Some(pod) if node.differs(pod) => node.settle(pod).await,
                    Some(_) => {}
                    None => node.let_go(&uid),
                }
                if settling.is_done(&uid, wanted) {
                    break;
                }
            }
        });
    }

    /// Makes one pod what it should be, and remembers why if that fails.
    async fn settle(self: &Arc<Self>, pod: &LocalPod) {
        let started = Instant::now();
        match self.enrol_or_change(pod).await {
            Ok(done) => {
                self.problems.lock().remove(&pod.uid);
                self.prefetch_certificate(&pod.uid);
                tracing::info!(pod = %pod.uid, netns = %pod.netns.display(), took = ?started.elapsed(), "{done}");
            }
            Err(error) => {
                let before = self.problems.lock().insert(pod.uid.clone(), error.to_string());
                if before.is_none() {
                    let reason = error.reason();
                    tracing::error!(pod = %pod.uid, reason, %error, "enrolment failed; trying again");
                }
            }
        }
    }

    async fn enrol_or_change(self: &Arc<Self>, desired: &LocalPod) -> Result<&'static str, RedirectError> {
        let spec = self.spec_of(desired);
        let current = self.enrolled.lock().get(&desired.uid).cloned();
        match current {
            Some(current) if current.is_at_home_of(desired) => {
                self.parts.redirector.update(&current.pod, &spec)?;
                self.keep(current.with(desired, spec.strict));
                return Ok("pod's settings changed");
            }
            // In the same namespace it is taken over from ourselves, so that it is not out of the mesh in between.
            Some(current) if current.is_in_namespace_of(desired) => {
                let pod = Arc::new(self.parts.redirector.enrol(spec).await?);
                self.abandon(&desired.uid);
                self.keep(self.serve(desired, pod));
                return Ok("pod's addresses changed");
            }
            Some(_) => self.let_go(&desired.uid),
            None => {}
        }
        if let Some(current) = self.reclaim(desired) {
            self.keep(current.with(desired, spec.strict));
            if let Err(error) = self.parts.redirector.resume_capture(&current.pod, &spec).await {
                self.let_go(&desired.uid);
                return Err(error);
            }
            return Ok("pod enrolled again");
        }
        if timeout(EVICTION_DEADLINE, self.evict(desired)).await.is_err() {
            let problem = "what was enrolled there before is still being taken away";
            return Err(RedirectError::Pod { uid: desired.uid.to_string(), problem });
        }
        let pod = Arc::new(self.parts.redirector.enrol(spec).await?);
        self.keep(self.serve(desired, pod));
        Ok("pod enrolled")
    }

    fn serve(&self, desired: &LocalPod, pod: Arc<EnrolledPod>) -> Enrolled {
        let stop = Stop { drain: self.drain.child_token(), cut: CancellationToken::new() };
        let (mtls, seen_mtls) = watch::channel(desired.mtls);
        let (uid, service_account) = (desired.uid.clone(), desired.service_account.clone());
        let local = LocalWorkload { uid, service_account, mtls: seen_mtls };
        let sockets = Arc::new(Sockets(Arc::clone(&pod)));
        // A task of its own: however much a pod asks, its connections are accepted meanwhile, and other pods'.
        let names = self.parts.data_plane.spawn(self.serve_names(&pod, &stop));
        let proxy = Box::pin(Arc::clone(&self.parts.proxy).serve(local, sockets, stop.clone()));
        let service = self.parts.data_plane.spawn(async {
            let _ = tokio::join!(proxy, names);
        });
        let strict = pod.spec().strict;
        Enrolled { desired: desired.clone(), pod, stop, mtls, strict, service: Arc::new(service) }
    }

    /// DNS for the pod, until it is cut.
    fn serve_names(&self, pod: &Arc<EnrolledPod>, stop: &Stop) -> impl Future<Output = ()> + Send + 'static {
        let (server, cut) = (self.parts.dns.clone(), stop.cut.clone());
        let (uid, sockets) = (pod.spec().uid.clone(), Arc::new(DnsSockets::new(Arc::clone(pod))));
        async move {
            if let Some(server) = server {
                server.serve(uid, sockets, cut).await;
            }
        }
    }
}
