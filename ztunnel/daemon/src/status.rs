//! What the admin endpoint tells of a pod.

use control::LocalPod;
use model::WorkloadUid;
use serde::Serialize;

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
