//! What the JSON answers are made of. `/config_dump` has the keys that Istio's tools look for.

use std::{collections::BTreeMap, time::SystemTime};

use model::{ClientAddr, OriginalDst, Role, WorkloadUid};
use redirect::OlderConnection;
use serde::Serialize;
use serde_json::{Value, json};
use telemetry::LiveConnection;

use super::Admin;
use crate::plaintext::PlaintextList;

/// A connection of a pod of this node, whether we carry it or not.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Connection {
    Older(Older),
    Live(Box<LiveConnection>),
}

/// Goes past us in plaintext, for as long as it lasts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Older {
    role: Role,
    local: WorkloadUid,
    client: ClientAddr,
    original_destination: OriginalDst,
    path: &'static str,
    established: bool,
}

impl Admin {
    /// Oldest first.
    pub(super) fn connections(&self) -> Vec<Connection> {
        let older = self.node.older_connections().into_iter().flat_map(|(local, connections)| {
            connections.into_iter().map(move |connection| Connection::Older(Older::of(&local, connection)))
        });
        let mut live = self.ledgers.live();
        live.sort_by_key(|connection| connection.id);
        older.chain(live.into_iter().map(|live| Connection::Live(Box::new(live)))).collect()
    }

    pub(super) fn plaintext(&self) -> PlaintextList {
        let accepted = self.ledgers.plaintext().list(SystemTime::now());
        PlaintextList::new(&self.snapshot.load(), &accepted, &self.node.older_connections())
    }

    pub(super) fn files(&self) -> Value {
        json!({ "state": self.state.json(), "pods": *self.pods.borrow() })
    }

    pub(super) fn verdicts(&self) -> BTreeMap<&'static str, u64> {
        self.node.parts.redirector.verdicts().into_iter().collect()
    }

    pub(super) fn config_dump(&self) -> Value {
        let snapshot = self.snapshot.load();
        json!({
            "workloads": snapshot.workloads().collect::<Vec<_>>(),
            "services": snapshot.services().collect::<Vec<_>>(),
            "policies": snapshot.policies().collect::<Vec<_>>(),
            "settings": snapshot.settings(),
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

impl Older {
    fn of(local: &WorkloadUid, OlderConnection { role, client, destination }: OlderConnection) -> Self {
        Self {
            role,
            local: local.clone(),
            client,
            original_destination: destination,
            path: "plaintext_before_enrolment",
            established: true,
        }
    }
}
