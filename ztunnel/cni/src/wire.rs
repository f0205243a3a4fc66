//! One request and one answer for each connection to the daemon's socket, as JSON. With [`Command::Add`] comes a
//! descriptor of the pod's network namespace: what the runtime calls it need not be a name that the daemon can open.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A request is no longer than this; it ends when the plugin closes its half.
pub const LONGEST_REQUEST: usize = 8 << 10;
/// Nor is an answer.
pub const LONGEST_ANSWER: usize = 8 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    pub command: Command,
    pub container: String,
    pub namespace: String,
    pub name: String,
    /// Kubernetes' own, if the runtime tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// What the plugins before us have given the pod.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// The pod is about to start: enrol it, if it belongs into the mesh.
    Add,
    /// Is it as it should be? Nothing is changed.
    Check,
    /// Its sandbox goes.
    Del,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "camelCase")]
pub enum Answer {
    NotInMesh,
    Enrolled,
    /// Another daemon serves this node by now: ask again, and it will be that one.
    Superseded,
    /// The pod cannot start yet.
    Refused {
        reason: String,
    },
}
