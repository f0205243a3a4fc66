//! The section `cni`: whether somebody else redirects the pods' traffic.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Cni {
    /// The socket of a CNI's agent that speaks ZDS, as istio-cni does. With it, the agent says which pods are in the
    /// mesh and redirects their traffic; no eBPF program is loaded.
    pub(crate) zds_socket: Option<PathBuf>,
}
