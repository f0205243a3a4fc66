//! `sameNode`: how pods of this node reach each other.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SameNode {
    /// As everybody else: encrypted, and across the pods' interfaces, where network policies of the CNI look.
    #[default]
    Tunnel,
    /// Past the network, from socket to socket, in plaintext that leaves neither pod; mesh policy decides alike.
    Direct,
}
