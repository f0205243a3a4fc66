//! What the admin endpoint tells of a pod.

use control::LocalPod;
use metrics::describe_gauge;
use model::WorkloadUid;
use serde::Serialize;
use telemetry::metrics::Page;

use crate::metrics::as_float;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) uid: WorkloadUid,
    pub(crate) enrolled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) settings: Option<LocalPod>,
    /// Why it is not enrolled, or not as its settings say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    pub(crate) connections: usize,
}

const CONNECTIONS: &str = "ztunnel_pod_connections";

pub(crate) fn describe() {
    describe_gauge!(CONNECTIONS, "Open connections of a pod, in both directions.");
}

/// Of the pods that there are now only.
pub(crate) fn write_connections(page: &mut Page<'_>, pods: &[PodStatus]) {
    page.gauges(
        CONNECTIONS,
        pods.iter().map(|pod| ([("workload", pod.uid.as_str())], as_float(pod.connections))),
    );
}
