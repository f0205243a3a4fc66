//! The mesh from a control plane, by delta ADS.
//!
//! [`protocol`] decides what is asked and answered, [`convert`] makes the model's objects of resources, [`holding`]
//! changes the snapshot by what differs; [`session`] carries it over one stream after the other. When the control plane is
//! gone, all that is known stays in force.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{Settings, SharedSnapshot, TrustDomain, WorkloadUid, demand::Demand};
use parking_lot::Mutex;
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::channel::ChannelSettings;

mod backoff;
mod convert;
mod holding;
mod kind;
mod node;
mod on_demand;
mod protocol;
mod session;
mod status;
mod stream;
mod sweep;
#[cfg(test)]
mod tests;

use backoff::Backoff;
pub(crate) use convert::{Converter, Object};
use holding::Holding;
pub(crate) use kind::Kind;
pub use node::ProxyNode;
pub use on_demand::{OnDemand, OnDemandSettings};
use protocol::Protocol;
use session::Session;
pub use status::{ControlPlaneProblem, ControlPlaneStatus, RejectedResource, TypeStatus};

#[derive(Clone, Debug)]
pub struct ControlPlaneSettings {
    pub channel: ChannelSettings,
    pub node: ProxyNode,
    /// Of workloads that name none.
    pub trust_domain: TrustDomain,
    /// Whose policies apply to all namespaces; without it, one that cannot be read may be such a one.
    pub root_namespace: Option<String>,
    /// Without it everything is asked for.
    pub on_demand: Option<OnDemandSettings>,
    /// What the control plane does not tell.
    pub local: Settings,
}

/// Publishes what the control plane says for as long as it lives. It must be the only one that publishes there.
pub struct ControlPlane {
    status: watch::Receiver<ControlPlaneStatus>,
    on_demand: Option<Arc<OnDemand>>,
    _following: AbortOnDropHandle<()>,
}

impl ControlPlane {
    /// Returns at once; [`ControlPlane::complete`] tells when all has been heard.
    pub fn start(settings: ControlPlaneSettings, snapshot: Arc<SharedSnapshot>) -> Self {
        let ControlPlaneSettings { channel, node, trust_domain, root_namespace, on_demand, local } = settings;
        let mut first = (*snapshot.load()).clone();
        first.set_settings(local);
        snapshot.publish(first);
        let on_demand = on_demand.map(|settings| OnDemand::new(settings, Arc::clone(&snapshot)));
        let holding = Holding::new(trust_domain, root_namespace);
        let protocol = Protocol::new(node.told(), on_demand.is_some(), holding);
        let waits_for = protocol.unanswered().map(Kind::name).collect();
        let (sender, status) =
            watch::channel(ControlPlaneStatus::new(channel.address.to_string(), waits_for));
        let session = Session {
            channel,
            snapshot,
            protocol: Arc::new(Mutex::new(protocol)),
            on_demand: on_demand.clone(),
            status: sender,
        };
        let following = AbortOnDropHandle::new(tokio::spawn(follow(session)));
        Self { status, on_demand, _following: following }
    }

    pub fn status(&self) -> watch::Receiver<ControlPlaneStatus> {
        self.status.clone()
    }

    /// Waits until everything has been heard once.
    pub async fn complete(&self) {
        let mut status = self.status.clone();
        // The sender lives as long as we do.
        let _ = status.wait_for(ControlPlaneStatus::is_complete).await;
    }

    /// The pods of this node.
    pub fn keep(&self, locals: &[WorkloadUid]) {
        if let Some(on_demand) = &self.on_demand {
            on_demand.keep(locals);
        }
    }

    /// Whom to ask for what is not in the snapshot; nobody, if everything is.
    pub fn demand(&self) -> Option<Arc<dyn Demand>> {
        self.on_demand.clone().map(|on_demand| on_demand as Arc<dyn Demand>)
    }
}

/// One stream after the other, forever.
async fn follow(session: Session) {
    let mut backoff = Backoff::default();
    loop {
        let (begun, heard) = (tokio::time::Instant::now(), session.responses());
        let ended = session.run().await;
        let pause = backoff.next(begun.elapsed(), session.responses() > heard, rand::random());
        session.ended(&ended, pause);
        sleep(pause).await;
    }
}

impl Session {
    /// All that ever came.
    fn responses(&self) -> u64 {
        self.status.borrow().types.values().map(|of_type| of_type.responses).sum()
    }

    fn ended(&self, ended: &Result<(), session::SessionError>, pause: Duration) {
        self.on_demand.iter().for_each(|on_demand| on_demand.set_connected(false));
        self.status.send_modify(|status| {
            if status.connected {
                status.connected = false;
                status.since = SystemTime::now();
            }
            if let Err(error) = ended {
                let (reason, error) = (error.reason(), error.to_string());
                tracing::warn!(address = status.address, reason, error, again_in = ?pause, "the control plane is gone");
                status.failures += 1;
                status.problem = Some(ControlPlaneProblem { reason, error });
            } else {
                tracing::debug!(address = status.address, again_in = ?pause, "the control plane has ended the stream");
            }
        });
    }
}
