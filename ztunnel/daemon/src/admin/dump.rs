//! What the JSON answers are made of. `/config_dump` has the keys that Istio's tools look for.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use telemetry::LiveConnection;

use super::Admin;

impl Admin {
    /// Oldest first.
    pub(super) fn connections(&self) -> Vec<LiveConnection> {
        let mut live = self.ledgers.live();
        live.sort_by_key(|connection| connection.id);
        live
    }

    pub(super) fn files(&self) -> Value {
        json!({ "state": *self.state.borrow(), "pods": *self.pods.borrow() })
    }

    pub(super) fn verdicts(&self) -> BTreeMap<&'static str, u64> {
        self.node.redirector.verdicts().into_iter().collect()
    }

    pub(super) fn config_dump(&self) -> Value {
        let snapshot = self.snapshot.load();
        json!({
            "workloads": snapshot.workloads().collect::<Vec<_>>(),
            "services": snapshot.services().collect::<Vec<_>>(),
            "policies": snapshot.policies().collect::<Vec<_>>(),
            "certificates": self.certificates.statuses(),
            "config": self.config,
            "version": { "version": env!("CARGO_PKG_VERSION") },
            "workloadState": self.node.status(),
            "connections": self.connections(),
            "files": self.files(),
            "redirection": self.verdicts(),
        })
    }
}
