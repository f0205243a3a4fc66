//! Letting a pod go: nothing new is captured, what is open may end by itself, and only then is taken away what steered
//! it. Until that begins the pod may come back, and is served on as if nothing had been.

use std::{sync::Arc, time::Duration};

use control::LocalPod;
use model::WorkloadUid;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Enrolled, Node, finished};

/// How often a pod that is leaving is asked whether its connections have ended.
const LINGER_POLL: Duration = Duration::from_millis(100);

pub(super) struct Leaving {
    enrolled: Enrolled,
    /// Fired when the pod comes back.
    reclaimed: CancellationToken,
    /// It is too late to come back.
    ending: bool,
    /// Fired when nothing is left of it.
    gone: CancellationToken,
}

impl Node {
    /// Ends the pod's service and leaves its enrolment: because another service has taken it over, or because the name
    /// of its namespace is gone. Whoever is left in there stays closed until the kernel says that it has ended.
    pub(super) fn abandon(&self, uid: &WorkloadUid) {
        let Some(enrolled) = self.enrolled.lock().remove(uid) else { return };
        enrolled.stop.cut.cancel();
        self.endings.spawn(async move { finished(&enrolled.service).await });
    }

    pub(super) fn let_go(self: &Arc<Self>, uid: &WorkloadUid) {
        let Some(enrolled) = self.enrolled.lock().remove(uid) else { return };
        if let Err(error) = self.parts.redirector.stop_capture(&enrolled.pod) {
            tracing::error!(pod = %uid, reason = error.reason(), %error, "cannot stop capturing");
        }
        let (reclaimed, gone) = (CancellationToken::new(), CancellationToken::new());
        let leaving =
            Leaving { enrolled: enrolled.clone(), reclaimed: reclaimed.clone(), ending: false, gone };
        self.leaving.lock().insert(uid.clone(), leaving);
        let node = Arc::clone(self);
        self.endings.spawn(async move { node.linger(enrolled, reclaimed).await });
    }

    /// The pod's service, if it is leaving and not ending yet, and still where it should be.
    pub(super) fn reclaim(&self, desired: &LocalPod) -> Option<Enrolled> {
        let mut leaving = self.leaving.lock();
        let found = leaving.get(&desired.uid)?;
        if found.ending || !found.enrolled.is_at_home_of(desired) {
            return None;
        }
        let Leaving { enrolled, reclaimed, .. } = leaving.remove(&desired.uid)?;
        reclaimed.cancel();
        Some(enrolled)
    }

    /// Ends what is leaving under the same name or in the same namespace, which must not be cleaned up under a pod
    /// that is being enrolled there.
    pub(super) async fn evict(&self, desired: &LocalPod) {
        let in_the_way = |leaving: &&Leaving| {
            let old = &leaving.enrolled;
            old.desired.uid == desired.uid || old.pod.namespace().is_at(&desired.netns)
        };
        let ending: Vec<_> = self.leaving.lock().values().filter(in_the_way).map(Leaving::cut).collect();
        for gone in ending {
            gone.cancelled().await;
        }
    }

    pub(super) fn cut_leaving(&self) {
        for leaving in self.leaving.lock().values() {
            leaving.cut();
        }
    }

    async fn linger(&self, enrolled: Enrolled, reclaimed: CancellationToken) {
        tokio::select! {
            biased;
            () = reclaimed.cancelled() => return,
            () = enrolled.stop.cut.cancelled() => {}
            () = self.last_connection(&enrolled) => {}
        }
        let uid = enrolled.desired.uid.clone();
        if let Some(leaving) = self.leaving.lock().get_mut(&uid) {
            leaving.ending = true;
        }
        enrolled.stop.cut.cancel();
        finished(&enrolled.service).await;
        if let Err(error) = self.parts.redirector.clean_up(&enrolled.pod).await {
            tracing::error!(pod = %uid, reason = error.reason(), %error, "cleaning up failed");
        }
        // With the last of these goes the last descriptor of the pod's namespace.
        drop(enrolled);
        let left = self.leaving.lock().remove(&uid).map(|leaving| leaving.gone);
        tracing::info!(pod = %uid, "pod let go");
        if let Some(gone) = left {
            gone.cancel();
        }
    }

    /// Or the deadline, or the end of the namespace, whichever comes first.
    async fn last_connection(&self, enrolled: &Enrolled) {
        let uid = &enrolled.desired.uid;
        let ended = async {
            while enrolled.pod.namespace().is_named() && self.parts.ledgers.count_for(uid) > 0 {
                sleep(LINGER_POLL).await;
            }
        };
        // Whatever is left then is cut.
        let _ = timeout(self.parts.drain_deadline, ended).await;
    }
}

impl Leaving {
    /// Ends it now; what is answered is fired when it has ended.
    fn cut(&self) -> CancellationToken {
        self.enrolled.stop.cut.cancel();
        self.gone.clone()
    }
}
