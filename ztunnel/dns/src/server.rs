//! The server: one for the node, with a share of it for each pod.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use model::{SharedSnapshot, WorkloadUid};
use rand::Rng;
use telemetry::{
    Ledgers, RateLimited,
    metrics::{dns_requested, limit_hit},
};
use tokio::{
    sync::Semaphore,
    time::{interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Answer, Listeners, Malformed, PodSockets, Query, Settings, Transport, View, answer,
    names::host,
    pace::Pace,
    share::Share,
    upstream::{ForwardError, Request},
};

mod connections;
mod datagrams;

/// How soon sockets that could not be opened, or broke, are opened again. A pod may close them if it has the privilege.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// Lines per reason and interval.
const LOGGED: u64 = 10;
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What all pods of this node share.
pub struct Server {
    settings: Settings,
    snapshot: Arc<SharedSnapshot>,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    log: RateLimited,
    ledgers: Arc<Ledgers>,
}

impl Server {
    pub fn new(settings: Settings, snapshot: Arc<SharedSnapshot>, ledgers: Arc<Ledgers>) -> Arc<Self> {
        let forwards = Arc::new(Semaphore::new(settings.forwards));
        let connections = Arc::new(Semaphore::new(settings.connections));
        let log = RateLimited::new(LOGGED, LOG_INTERVAL);
        Arc::new(Self { settings, snapshot, forwards, connections, log, ledgers })
    }

    pub fn usage(&self) -> [Usage; 2] {
        let usage = |limit, allowed: usize, places: &Semaphore| Usage {
            limit,
            used: allowed.saturating_sub(places.available_permits()),
            allowed,
        };
        [
            usage("dns_forwards", self.settings.forwards, &self.forwards),
            usage("dns_connections", self.settings.connections, &self.connections),
        ]
    }

    /// Serves one pod until `stop` fires, and returns when nothing is left of it.
    pub async fn serve(
        self: Arc<Self>,
        uid: WorkloadUid,
        sockets: Arc<impl PodSockets>,
        stop: CancellationToken,
    ) {
        let stop = stop.child_token();
        let _stop_on_drop = stop.clone().drop_guard();
        let pod = Arc::new(Pod {
            uid,
            sockets,
            pace: Pace::new(self.settings.queries_per_second),
            forwards: Share::new(self.settings.forwards_per_pod, &self.forwards),
            connections: Share::new(self.settings.connections_per_pod, &self.connections),
            server: self,
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        stop.run_until_cancelled(async {
            tokio::join!(pod.keep_listening(), pod.keep_summing_up());
        })
        .await;
        pod.tasks.close();
        pod.tasks.wait().await;
    }
}

/// What the requests of one pod share.
struct Pod<P> {
    server: Arc<Server>,
    uid: WorkloadUid,
    sockets: Arc<P>,
    pace: Pace,
    forwards: Share,
    connections: Share,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How much of a limit is used.
pub struct Usage {
    pub limit: &'static str,
    pub used: usize,
    pub allowed: usize,
}

/// What is done about a message.
enum Decision {
    Ignore,
    Reply(Vec<u8>),
    Forward(Request),
}

impl<P: PodSockets> Pod<P> {
    async fn keep_listening(self: &Arc<Self>) {
        loop {
            let error = match self.sockets.listen() {
                Ok(listeners) => self.listen_on(listeners).await,
                Err(error) => error,
            };
            self.server.log.warn("dns_listen", &self.uid, format_args!("port 15053: {error}"));
            sleep(REOPEN_PAUSE).await;
        }
    }

    /// What was too much to log is told in one line, whether or not anything is logged again.
    async fn keep_summing_up(&self) {
        let mut ticks = interval(LOG_INTERVAL);
        loop {
            ticks.tick().await;
            self.server.log.summarize();
        }
    }

    /// Whether one more request is looked at now; if not, how long until one may be.
    fn admit(&self) -> Result<(), Duration> {
        self.pace.admit().inspect_err(|_| {
            limit_hit("dns_queries_per_second");
            self.server.log.warn(
                "dns_queries_per_second",
                &self.uid,
                "more DNS requests than a pod may send",
            );
        })
    }

    /// Until one of them breaks: then all are opened anew.
    async fn listen_on(self: &Arc<Self>, listeners: Listeners) -> io::Error {
        let datagrams =
            listeners.udp.into_iter().map(|socket| futures::future::Either::Left(self.datagrams(socket)));
        let streams =
            listeners.tcp.into_iter().map(|socket| futures::future::Either::Right(self.streams(socket)));
        let mut all: FuturesUnordered<_> = datagrams.chain(streams).collect();
        all.next().await.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    fn decide(&self, bytes: &[u8], transport: Transport) -> Decision {
        let (kind, decision) = match Query::parse(bytes) {
            Ok(query) => (query.kind(), self.decide_about(&query, transport)),
            Err(Malformed::Refused(reply)) => ("malformed", Decision::Reply(reply)),
            Err(Malformed::Unanswerable) => ("malformed", Decision::Ignore),
        };
        dns_requested(kind, protocol(transport), decision.outcome());
        decision
    }

    /// Of a pod that state does not know yet it is not known what names mean to it.
    fn decide_about(&self, query: &Query<'_>, transport: Transport) -> Decision {
        let snapshot = self.server.snapshot.load();
        let cluster_domain = &self.server.settings.cluster_domain;
        let view = View { cluster_domain, transport, dice: rand::rng().random() };
        let known = snapshot.workload(&self.uid);
        match known.map_or(Answer::Forward, |client| answer(&snapshot, client, query, &view)) {
            Answer::Reply(reply) => Decision::Reply(reply),
            Answer::Forward => Decision::Forward(Request::new(query, transport)),
        }
    }

    /// The answer to what was about to be handed on, if it is of the mesh and nobody had needed it before. Who does not
    /// answer in time costs the name, not the request: whatever address comes of it is asked about when it is used.
    async fn learned(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let demand = self.server.settings.demand.as_ref()?;
        let namespace = Arc::clone(&self.server.snapshot.load().workload(&self.uid)?.namespace);
        let query = Query::parse(bytes).ok()?;
        let host = query.question().and_then(|asked| host(&asked.name))?;
        demand.host(&host, &namespace).await.ok()?;
        match self.decide_about(&query, transport) {
            Decision::Reply(reply) => Some(reply),
            Decision::Ignore | Decision::Forward(_) => None,
        }
    }

    /// Runs until it ends or the pod's service does.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// Tells of a failure, and what the pod is told.
    fn failed(&self, request: &Request, error: &ForwardError) -> Vec<u8> {
        telemetry::metrics::dns_forward_failed(error.reason());
        let said = format_args!("a DNS request: {error}");
        self.server.log.warn(error.reason(), &self.uid, said);
        let snapshot = self.server.snapshot.load();
        let (pod, target) = (snapshot.workload(&self.uid), error.target());
        self.server.ledgers.refusals().note_dns(&self.uid, pod, target, error.reason(), said);
        request.failure()
    }
}

/// Never to ourselves, nor to many at once.
fn forwardable(original: SocketAddr, arrived_at: SocketAddr) -> Result<SocketAddr, ForwardError> {
    let ip = original.ip();
    if original == arrived_at || original.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(ForwardError::NotRedirected);
    }
    Ok(original)
}

impl Decision {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Ignore => "ignored",
            Self::Reply(_) => "answered",
            Self::Forward(_) => "forwarded",
        }
    }
}

fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}
