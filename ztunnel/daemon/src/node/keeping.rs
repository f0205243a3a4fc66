//! Looking after the pods that are enrolled: their namespaces, their certificates, and what earlier daemons left.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use model::WorkloadUid;
use redirect::Finding;

use super::{Node, borrowed};
use crate::verdicts;

impl Node {
    /// Pods of a daemon before us that nobody wants any more, once we know which those are.
    pub(super) fn forget_strangers(&self) {
        if !self.problems.lock().is_empty() || self.strangers_forgotten.load(Ordering::Relaxed) {
            return;
        }
        match self.parts.redirector.forget_strangers(&borrowed(&self.pods())) {
            Ok(()) => self.strangers_forgotten.store(true, Ordering::Relaxed),
            Err(error) => tracing::warn!(reason = error.reason(), %error, "old enrolments stay behind"),
        }
    }

    pub(super) async fn inspect_all(self: &Arc<Self>) {
        if let Err(error) = self.parts.redirector.forget_dead() {
            tracing::warn!(reason = error.reason(), %error, "enrolments of ended namespaces stay behind");
        }
        let all: Vec<_> = self.enrolled.lock().values().cloned().collect();
        for enrolled in all {
            let uid = &enrolled.desired.uid;
            if let Err(error) = enrolled.pod.forget_ended().await {
                tracing::warn!(pod = %uid, reason = error.reason(), %error, "older connections cannot be listed");
            }
            match self.parts.redirector.inspect(&enrolled.pod).await {
                Ok(findings) => findings.into_iter().for_each(|finding| self.found(uid, finding)),
                Err(error) => {
                    tracing::warn!(pod = %uid, reason = error.reason(), %error, "inspection failed");
                }
            }
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

    /// Certificates are kept for the identities of the pods that are served, those that are leaving among them, and no
    /// others.
    pub(super) fn keep_certificates(&self) {
        let snapshot = self.parts.snapshot.load();
        let mut uids: Vec<_> = self.enrolled.lock().keys().cloned().collect();
        uids.extend(self.leaving.lock().keys().cloned());
        let identities: HashSet<_> = uids
            .iter()
            .filter_map(|uid| snapshot.workload(uid))
            .map(|workload| workload.identity.clone())
            .collect();
        for identity in &identities {
            if let Err(error) = self.parts.certificates.prefetch(identity) {
                tracing::warn!(reason = error.reason(), %error, "a local workload will have no certificate");
            }
        }
        self.parts.certificates.retain(&identities);
    }
}
