//! Pods from Kubernetes: the setting `podSource` and the section `kubernetes`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Who names this node's pods, if neither a file nor a CNI's agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PodSourceKind {
    /// The API server, which is watched for the pods of `nodeName`.
    Kubernetes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Kubernetes {
    /// How the API server is reached; by default as the pod's service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The mesh's own, whose pods are never enrolled; by default the service account's.
    pub(crate) own_namespace: Option<String>,
}
