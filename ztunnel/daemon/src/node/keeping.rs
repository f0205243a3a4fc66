//! Looking after the pods that are enrolled: their namespaces, their certificates, and what earlier daemons left.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::StreamExt;
use model::WorkloadUid;
use redirect::Finding;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Enrolled, Node, borrowed};
use crate::verdicts;

/// Pods that are inspected at the same time.
const INSPECTED_AT_ONCE: usize = 16;
/// For one pod; on a pod that is left alone it takes a millisecond.
const INSPECTION_DEADLINE: Duration = Duration::from_secs(5);

impl Node {
    /// Pods of a daemon before us that nobody wants any more. One that has an address of a pod that is wanted, and not served
    /// yet, may be that one: it stays closed until that is known.
    pub(super) fn forget_strangers(&self) {
        if self.strangers_forgotten.load(Ordering::Relaxed) {
            return;
        }
        let missing = self.settling.missing(|uid| self.enrolled.lock().contains_key(uid));
        let unplaced = Arc::clone(&self.parts.unplaced.borrow());
        let unplaced = unplaced.values().flat_map(|pod| pod.ips.iter().copied());
        let awaited: HashSet<IpAddr> = missing.into_iter().flat_map(|pod| pod.ips).chain(unplaced).collect();
        match self.parts.redirector.forget_strangers(&borrowed(&self.pods()), &awaited) {
            Ok(0) => self.strangers_forgotten.store(true, Ordering::Relaxed),
            Ok(left) if !self.told_strangers.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    left,
                    "former pods stay closed: pods that have their addresses are not served yet"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(reason = error.reason(), %error, "old enrolments stay behind"),
        }
    }

    /// Looks at every pod again and again, forever. What a pod does to its namespace, a million routes for instance, must
    /// not hold up the others, nor the list of pods.
    pub(crate) async fn watch_over(self: Arc<Self>) {
        let mut rounds = interval(self.parts.inspection_interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if let Err(error) = self.parts.redirector.forget_dead() {
                tracing::warn!(reason = error.reason(), %error, "enrolments of ended namespaces stay behind");
            }
            if let Err(error) = self.parts.redirector.follow_kubelet() {
                tracing::warn!(reason = error.reason(), %error, "the kubelet's probes are not known by its new cgroup");
            }
            let all: Vec<_> = self.enrolled.lock().values().cloned().collect();
            let inspect = |enrolled| self.inspect(enrolled);
            futures::stream::iter(all).for_each_concurrent(INSPECTED_AT_ONCE, inspect).await;
        }
    }

    async fn inspect(self: &Arc<Self>, enrolled: Enrolled) {
        let uid = &enrolled.desired.uid;
        let inspection = async {
            enrolled.pod.forget_ended().await?;
            self.parts.redirector.inspect(&enrolled.pod).await
        };
        let result = timeout(INSPECTION_DEADLINE, inspection).await;
        // It may have been let go, or moved, meanwhile.
        let is_current = |now: &Enrolled| Arc::ptr_eq(&now.pod, &enrolled.pod);
        if !self.enrolled.lock().get(uid).is_some_and(is_current) {
            return;
        }
        match result {
            Ok(Ok(findings)) => findings.into_iter().for_each(|finding| self.found(uid, finding)),
            Ok(Err(error)) => {
                tracing::warn!(pod = %uid, reason = error.reason(), %error, "inspection failed");
            }
            Err(_) => tracing::warn!(pod = %uid, "inspection takes too long; what is undone there stays so"),
        }
    }

    fn found(self: &Arc<Self>, uid: &WorkloadUid, finding: Finding) {
        if finding == Finding::NamespaceGone {
            tracing::info!(pod = %uid, "the pod's namespace is gone");
            self.problems.lock().insert(uid.clone(), "its namespace is gone".to_owned());
            self.abandon(uid);
            return;
        }
        verdicts::tampered(finding.reason());
        tracing::warn!(pod = %uid, finding = finding.reason(), detail = ?finding, "tampering with the redirection was repaired");
    }

    /// So that the pod's first connection does not wait for it.
    pub(super) fn prefetch_certificate(&self, uid: &WorkloadUid) {
        let snapshot = self.parts.snapshot.load();
        let Some(workload) = snapshot.workload(uid) else { return };
        if let Err(error) = self.parts.certificates.prefetch(&workload.identity) {
            tracing::warn!(reason = error.reason(), %error, "a local workload will have no certificate");
        }
    }

    /// Certificates are kept for the identities of the pods that are served, those that are leaving among them, and no
    /// others. A pod that the mesh state does not have at the moment keeps the one it had: it may be back before the CA is.
    pub(super) fn keep_certificates(&self) {
        let snapshot = self.parts.snapshot.load();
        let mut uids: HashSet<_> = self.enrolled.lock().keys().cloned().collect();
        uids.extend(self.leaving.lock().keys().cloned());
        let mut known = self.identities.lock();
        known.retain(|uid, _| uids.contains(uid));
        let workloads =
            uids.into_iter().filter_map(|uid| Some((snapshot.workload(&uid)?.identity.clone(), uid)));
        known.extend(workloads.map(|(identity, uid)| (uid, identity)));
        let identities: HashSet<_> = known.values().cloned().collect();
        drop(known);
        for identity in &identities {
            if let Err(error) = self.parts.certificates.prefetch(identity) {
                tracing::warn!(reason = error.reason(), %error, "a local workload will have no certificate");
            }
        }
        self.parts.certificates.retain(&identities);
    }
}
