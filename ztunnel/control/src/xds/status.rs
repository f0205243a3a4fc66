//! What is told of the control plane to log, metric and admin endpoint.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;

use crate::instant::{rfc3339, rfc3339_option};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlaneStatus {
    pub address: String,
    /// Whether the stream stands.
    pub connected: bool,
    /// Since when it does, or does not.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    #[serde(serialize_with = "rfc3339_option")]
    pub last_response: Option<SystemTime>,
    /// The types that nothing has been heard of yet: without them nothing is served.
    pub waits_for: Vec<&'static str>,
    /// Streams opened, and attempts that failed or streams that ended by an error.
    pub streams: u64,
    pub failures: u64,
    /// Why it does not stand.
    pub problem: Option<ControlPlaneProblem>,
    /// By type of resource.
    pub types: BTreeMap<&'static str, TypeStatus>,
    /// What is held of each.
    pub objects: BTreeMap<&'static str, usize>,
    /// Resources that cannot be used as they were sent last, and why; at most a hundred.
    pub rejected: Vec<RejectedResource>,
    /// What is asked for by name, if not everything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlaneProblem {
    pub reason: &'static str,
    pub error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeStatus {
    pub responses: u64,
    /// What came in them.
    pub resources: u64,
    /// Responses of which something was refused.
    pub refused: u64,
    /// What the control plane calls its state.
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedResource {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub name: String,
    pub reason: String,
}

impl ControlPlaneStatus {
    pub(super) fn new(address: String, waits_for: Vec<&'static str>) -> Self {
        Self {
            address,
            connected: false,
            since: SystemTime::now(),
            last_response: None,
            waits_for,
            streams: 0,
            failures: 0,
            problem: None,
            types: BTreeMap::new(),
            objects: BTreeMap::new(),
            rejected: Vec::new(),
            on_demand: None,
        }
    }

    /// Whether the whole state has been heard once.
    pub fn is_complete(&self) -> bool {
        self.waits_for.is_empty()
    }

    /// How old the state may be: nothing while the control plane is there to say what changes. `None` without any.
    pub fn age(&self, now: SystemTime) -> Option<std::time::Duration> {
        let since = if self.connected { now } else { self.since };
        self.last_response.map(|_| now.duration_since(since).unwrap_or_default())
    }

    /// What an operator should know while waiting for it.
    pub fn pending(&self) -> Option<String> {
        if self.is_complete() {
            return None;
        }
        let Self { address, .. } = self;
        let first = self.waits_for.join(" and ");
        Some(match &self.problem {
            Some(problem) => format!("control plane {address}: {}", problem.error),
            None if self.connected => format!("control plane {address}: the first response of {first}"),
            None => format!("control plane {address}: connecting"),
        })
    }
}
