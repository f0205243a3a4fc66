//! Gives up what nobody has needed for a while, and what had come along with it.

use std::{collections::HashSet, sync::Arc};

use model::{Snapshot, service::ServiceKey};
use proto::discovery::DeltaDiscoveryRequest;
use tokio::time::Instant;

use super::{holding::Holding, kind::Kind, on_demand::OnDemand, session::Session};

impl Session {
    pub(super) fn sweep(&self) -> Vec<DeltaDiscoveryRequest> {
        let Some(on_demand) = &self.on_demand else { return Vec::new() };
        let expired = on_demand.expire(Instant::now());
        let mut snapshot = (*self.snapshot.load()).clone();
        let mut protocol = self.protocol.lock();
        let unneeded = unneeded(&protocol.holding, &snapshot, on_demand);
        for name in &unneeded {
            protocol.holding.remove(Kind::Address, name, &mut snapshot);
        }
        if !unneeded.is_empty() {
            self.snapshot.publish(snapshot);
            self.recount(&protocol);
        }
        protocol.subscribe([], expired.into_iter().chain(unneeded))
    }
}

/// Held, but neither needed by name or address nor an endpoint of a service that is.
fn unneeded(holding: &Holding, snapshot: &Snapshot, on_demand: &Arc<OnDemand>) -> Vec<String> {
    let needed: HashSet<&ServiceKey> = holding
        .services()
        .filter(|key| snapshot.service(key).is_some_and(|service| on_demand.needs_service(key, service)))
        .collect();
    let services = holding.services().filter(|key| !needed.contains(key)).map(ToString::to_string);
    let workloads = holding.workloads().filter(|uid| {
        snapshot.workload(uid).is_none_or(|workload| {
            !workload.services.keys().any(|key| needed.contains(key)) && !on_demand.needs_workload(workload)
        })
    });
    let unreadable =
        holding.unreadable().filter(|name| !on_demand.needs_unreadable(name, snapshot.closed_by(name)));
    services.chain(workloads.map(ToString::to_string)).chain(unreadable.cloned()).collect()
}
