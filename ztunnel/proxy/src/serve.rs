//! The proxy of this node, and its service to one pod.

use std::{net::IpAddr, sync::Arc, time::Duration};

use model::{
    Refusal, Role, SharedSnapshot, Snapshot, SpiffeId, SvidSource, Workload, WorkloadUid,
    demand::Demand,
    names::HostNames,
    outlier::{OutlierSettings, Outliers},
};
use parking_lot::Mutex;
use telemetry::{Ledgers, RateLimited, metrics::ActiveProxy};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tunnel::{Tunnel, Usage};

use crate::{
    LocalWorkload, PodSockets, ProxyLimits, Stop,
    gate::Gate,
    limits::{HANDSHAKES, SOCKETS},
    neighbours::Neighbours,
    own_legs::OwnLegs,
    pipes::Pipes,
    room::Room,
    shares::Shares,
    standing::{Claim, Leave, Standing},
};

#[cfg(test)]
mod tests;

#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// From accept until the connection stands, all steps together.
    pub connect_deadline: Duration,
    /// How many endpoints of a service are tried for one connection.
    pub attempts: u32,
    /// When endpoints that keep failing are set aside. Each pod keeps its own account: what fails for one, such as by a
    /// network policy of its own, must not turn the others away.
    pub outliers: OutlierSettings,
    pub limits: ProxyLimits,
    /// Connections between pods of this daemon go past the network.
    pub direct: bool,
    /// Pipes that may hold data at once, each two descriptors; connections that find none are copied.
    pub pipes: usize,
    /// How soon open connections feel a change of the mesh state.
    pub recheck_interval: Duration,
    /// Whom to ask for what the state does not have; nobody, if it has everything.
    pub demand: Option<Arc<dyn Demand>>,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            connect_deadline: Duration::from_secs(10),
            attempts: 3,
            outliers: OutlierSettings::default(),
            limits: ProxyLimits::default(),
            direct: false,
            pipes: 256,
            recheck_interval: Duration::from_secs(1),
            demand: None,
        }
    }
}

/// What all pods of this node share.
pub struct Proxy<S: SvidSource> {
    pub(crate) settings: ProxySettings,
    pub(crate) snapshot: Arc<SharedSnapshot>,
    pub(crate) tunnel: Tunnel<S>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) names: Arc<dyn HostNames>,
    pub(crate) handshakes: Arc<Gate<WorkloadUid>>,
    pub(crate) seats: Arc<Semaphore>,
    pub(crate) pipes: Arc<Pipes>,
    pub(crate) neighbours: Neighbours,
    /// Of what strangers can cause.
    pub(crate) log: RateLimited,
}

/// Who a pod's inbound connections come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Proven(SpiffeId),
    Unproven(IpAddr),
}

impl<S: SvidSource> Proxy<S> {
    pub fn new(
        settings: ProxySettings,
        snapshot: Arc<SharedSnapshot>,
        tunnel: Tunnel<S>,
        ledgers: Arc<Ledgers>,
        names: Arc<dyn HostNames>,
    ) -> Arc<Self> {
        let handshakes = Gate::new(settings.limits.handshakes);
        let log = RateLimited::new(settings.limits.log_lines, settings.limits.log_interval);
        let seats = Arc::new(Semaphore::new(settings.limits.sockets));
        let pipes = Pipes::new(settings.pipes, tunnel.plaintext_budget());
        let neighbours = Neighbours::default();
        Arc::new(Self {
            settings,
            snapshot,
            tunnel,
            ledgers,
            names,
            handshakes,
            seats,
            pipes,
            neighbours,
            log,
        })
    }

    /// How much of what the daemon may hold is in use.
    pub fn usage(&self) -> Vec<Usage> {
        let sockets = self.settings.limits.sockets;
        let used = sockets.saturating_sub(self.seats.available_permits());
        let (under_way, handshakes) = self.handshakes.in_use();
        let mut usage = self.tunnel.usage().to_vec();
        usage.push(Usage { limit: HANDSHAKES, used: under_way, allowed: handshakes });
        usage.push(Usage { limit: SOCKETS, used, allowed: sockets });
        usage
    }

    /// Serves one enrolled pod until `stop.cut` fires, then ends all that is open and returns when it has ended.
    /// After `stop.drain` peers are asked to open no more streams, but whatever comes is still served: a
    /// successor has taken the listeners, or nobody has. Dropping the future is a cut.
    pub async fn serve(self: Arc<Self>, local: LocalWorkload, sockets: Arc<impl PodSockets>, stop: Stop) {
        let cut = stop.cut.child_token();
        let _cut_on_drop = cut.clone().drop_guard();
        let _counted = ActiveProxy::new();
        let standing = Standing::new(local.mtls.clone());
        let outside = Standing::new(local.mtls.clone());
        let limits = self.settings.limits.clone();
        let room = Room::new(&self.seats, limits.sockets, limits.pod_sockets_percent);
        let pod = Arc::new(Pod {
            handshakes: Gate::new(limits.handshakes_per_pod),
            outgoing: Shares::new(limits.outbound_connections_per_pod),
            incoming: Shares::new(limits.inbound_connections_per_source),
            pending: Shares::new((limits.pending_per_pod * limits.pending_per_source_percent / 100).max(1)),
            tunnels: Shares::new(limits.inbound_tunnels_per_source),
            outliers: Mutex::new(Outliers::new(self.settings.outliers.clone())),
            proxy: self,
            local,
            sockets,
            stop: Stop { drain: stop.drain, cut: cut.clone() },
            tasks: TaskTracker::new(),
            standing,
            outside,
            own_legs: Arc::default(),
            room,
        });
        let beside = pod.proxy.neighbours.enter(Arc::clone(&pod) as _);
        let service = async {
            tokio::join!(
                pod.accept_all(Role::Outbound),
                pod.accept_all(Role::InboundPlaintext),
                pod.accept_all(Role::InboundHbone),
                pod.recheck_at_changes(),
            )
        };
        // Boxed, as in `spawn`.
        cut.run_until_cancelled(Box::pin(service)).await;
        drop(beside);
        pod.tasks.close();
        pod.tasks.wait().await;
        // Last, as a journey that was just dialing has left a connection behind, and with it a socket in the pod.
        pod.proxy.tunnel.retire(&pod.local.uid);
    }
}

/// What the connections of one pod share.
pub(crate) struct Pod<S: SvidSource, P> {
    pub(crate) proxy: Arc<Proxy<S>>,
    pub(crate) local: LocalWorkload,
    pub(crate) sockets: Arc<P>,
    pub(crate) stop: Stop,
    pub(crate) tasks: TaskTracker,
    pub(crate) handshakes: Arc<Gate<IpAddr>>,
    pub(crate) outgoing: Arc<Shares<()>>,
    pub(crate) incoming: Arc<Shares<Source>>,
    /// Without a tunnel, and not made yet.
    pub(crate) pending: Arc<Shares<IpAddr>>,
    pub(crate) tunnels: Arc<Shares<(SpiffeId, IpAddr)>>,
    pub(crate) standing: Arc<Standing<Claim>>,
    /// Those to somebody whom the mesh does not know.
    pub(crate) outside: Arc<Standing<Leave>>,
    pub(crate) own_legs: Arc<OwnLegs>,
    pub(crate) room: Room,
    pub(crate) outliers: Mutex<Outliers>,
}

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.proxy.snapshot.load()
    }

    /// The pod as the mesh knows it. A pod that was made anew under its old name may be another one by now, which the
    /// mesh does not know yet.
    pub(crate) fn own<'a>(&self, snapshot: &'a Snapshot) -> Result<Option<&'a Arc<Workload>>, Refusal> {
        let LocalWorkload { uid, service_account, .. } = &self.local;
        let workload = snapshot.workload(uid);
        let runs_as =
            |account: &String| workload.is_none_or(|workload| workload.identity.service_account() == account);
        if service_account.as_ref().is_none_or(runs_as) {
            return Ok(workload);
        }
        Err(Refusal::WrongServiceAccount(uid.clone()))
    }

    /// Runs a journey until it ends or the pod is cut. Dropping it resets its sockets and closes its ledger.
    pub(crate) fn spawn(&self, journey: impl Future<Output = ()> + Send + 'static) {
        let cut = self.stop.cut.clone();
        // Boxed, as each future that hands it on would have room for it once more.
        let journey = Box::pin(journey);
        self.tasks.spawn(async move {
            cut.run_until_cancelled(journey).await;
        });
    }

    /// A published snapshot is a new allocation, and `seen` keeps the old one's address from being taken.
    async fn recheck_at_changes(&self) {
        let mut seen = (self.snapshot(), self.standing.mtls());
        let mut ticks = tokio::time::interval(self.proxy.settings.recheck_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.proxy.log.summarize();
            let now = (self.snapshot(), self.standing.mtls());
            if !Arc::ptr_eq(&seen.0, &now.0) || seen.1 != now.1 {
                self.standing.recheck(&now.0).await;
                self.outside.recheck(&now.0).await;
                seen = now;
            }
        }
    }
}
