//! Who may have which certificate: a daemon those of the pods that are scheduled on its own node.
//!
//! Its token says which pod it is, and our own watch on which node that pod is: a token stolen from one node is good for the
//! identities of that node alone.

use std::{sync::Arc, time::Duration};

use model::SpiffeId;
use parking_lot::RwLock;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{authentication::Caller, inventory::Inventory};

/// A pod that was scheduled just now may not have come to our ears yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The token belongs to no pod.
    NoPod,
    /// The daemon's pod is not known, or is another one of that name.
    UnknownDaemon,
    /// What the token says of the node is not where the pod is.
    OtherNode,
    NotOnNode {
        node: String,
    },
}

impl Denied {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoPod => "no_pod",
            Self::UnknownDaemon => "unknown_daemon",
            Self::OtherNode => "other_node",
            Self::NotOnNode { .. } => "not_on_node",
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::NoPod => "the token is bound to no pod: use a projected one".to_owned(),
            Self::UnknownDaemon => "the daemon's pod is not known".to_owned(),
            Self::OtherNode => "the token's node is not the one that the daemon's pod is on".to_owned(),
            Self::NotOnNode { node } => format!("no pod with this service account is scheduled on {node}"),
        }
    }
}

/// Yields the node.
pub(super) fn authorize(
    inventory: &Inventory,
    caller: &Caller,
    identity: &SpiffeId,
) -> Result<String, Denied> {
    let pod = caller.pod.as_deref().ok_or(Denied::NoPod)?;
    let daemon = inventory.pod(&inventory.own().namespace, pod).ok_or(Denied::UnknownDaemon)?;
    if caller.pod_uid.as_ref().is_some_and(|uid| *uid != daemon.uid) || daemon.node.is_empty() {
        return Err(Denied::UnknownDaemon);
    }
    let node = daemon.node.clone();
    if caller.node.as_ref().is_some_and(|told| *told != node) {
        return Err(Denied::OtherNode);
    }
    if inventory.runs_on(&node, identity.namespace(), identity.service_account()) {
        Ok(node)
    } else {
        Err(Denied::NotOnNode { node })
    }
}

/// The same, but a denial has to last.
pub(super) async fn authorize_soon(
    inventory: &Arc<RwLock<Inventory>>,
    changed: &mut watch::Receiver<u64>,
    caller: &Caller,
    identity: &SpiffeId,
) -> Result<String, Denied> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        changed.mark_unchanged();
        let decision = authorize(&inventory.read(), caller, identity);
        let may_come = matches!(decision, Err(Denied::UnknownDaemon | Denied::NotOnNode { .. }));
        if !may_come || !matches!(timeout_at(give_up, changed.changed()).await, Ok(Ok(()))) {
            return decision;
        }
    }
}

#[cfg(test)]
mod tests;
