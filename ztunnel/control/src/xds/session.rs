//! One stream: what arrives is applied and answered in order, what is newly needed is asked for in between.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::stream::unfold;
use model::{SharedSnapshot, Snapshot, WorkloadUid, service::ServiceKey};
use parking_lot::Mutex;
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    tonic::Status,
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, interval_at, timeout},
};

use super::{
    holding::names,
    kind::Kind,
    on_demand::{Changes, OnDemand},
    protocol::{Protocol, Reaction},
    status::{ControlPlaneStatus, RejectedResource},
    stream::Responses,
};
use crate::channel::{ChannelError, ChannelSettings};

/// A mesh of a million workloads fits.
const MAX_RESPONSE: usize = 512 << 20;
/// Requests that wait to be sent. A control plane that reads none for so long is none.
const OUTGOING: usize = 64;
const SEND_DEADLINE: Duration = Duration::from_secs(30);
const OPEN_DEADLINE: Duration = Duration::from_secs(120);
/// A response of more resources is applied on a thread of its own: others are served meanwhile.
const SMALL: usize = 64;
/// Within twice this long after its first response, a stream has spoken of all that there is.
const UNTOLD_AFTER: Duration = Duration::from_secs(30);

/// Why a stream ended. A control plane ends them regularly without any error.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the control plane's stream: {}", told(.0))]
    Stream(#[from] Status),
    #[error("the control plane takes no requests")]
    Stalled,
    #[error("the control plane did not open the stream within {OPEN_DEADLINE:?}")]
    Silent,
}

impl SessionError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Channel(error) => error.reason(),
            Self::Stream(_) => "stream",
            Self::Stalled => "stalled",
            Self::Silent => "silent",
        }
    }
}

/// With what lies beneath: our own errors come wrapped.
fn told(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(&format!(": {cause}"));
        }
        source = error.source();
    }
    text
}

pub(super) struct Session {
    pub(super) channel: ChannelSettings,
    pub(super) snapshot: Arc<SharedSnapshot>,
    /// Nobody else locks it; it goes to other threads and comes back.
    pub(super) protocol: Arc<Mutex<Protocol>>,
    pub(super) on_demand: Option<Arc<OnDemand>>,
    pub(super) status: watch::Sender<ControlPlaneStatus>,
}

impl Session {
    /// Until the stream ends.
    pub(super) async fn run(&self) -> Result<(), SessionError> {
        let connection = self.channel.connect().await?;
        let (requests, outgoing) = mpsc::channel(OUTGOING);
        for request in self.first_requests() {
            send(&requests, request).await?;
        }
        let outgoing = unfold(outgoing, |mut outgoing| async move {
            outgoing.recv().await.map(|request: DeltaDiscoveryRequest| (request, outgoing))
        });
        // Some open it with their first response, and a large mesh takes a while to be put together.
        let opening = timeout(OPEN_DEADLINE, Responses::open(connection, outgoing, MAX_RESPONSE)).await;
        let mut responses = opening.map_err(|_| SessionError::Silent)??;
        self.connected();
        let sweep = self.on_demand.as_ref().map_or(Duration::from_secs(3600), |d| d.unused_after() / 4);
        let mut sweeps = interval_at(Instant::now() + sweep, sweep);
        let mut untold = interval_at(Instant::now() + UNTOLD_AFTER, UNTOLD_AFTER);
        loop {
            tokio::select! {
                response = responses.next() => {
                    let Some(response) = response? else { return Ok(()) };
                    if let Some(reply) = self.receive(response).await.reply {
                        send(&requests, reply).await?;
                    }
                }
                () = self.newly_needed() => {
                    for request in self.subscribe() {
                        send(&requests, request).await?;
                    }
                }
                _ = untold.tick() => self.forget_untold(),
                _ = sweeps.tick() => {
                    for request in self.sweep() {
                        send(&requests, request).await?;
                    }
                }
            }
        }
    }

    fn first_requests(&self) -> Vec<DeltaDiscoveryRequest> {
        let mut protocol = self.protocol.lock();
        if let Some(on_demand) = &self.on_demand {
            // They go with the first request.
            let Changes { wanted, unwanted } = on_demand.changes();
            let _ = protocol.subscribe(wanted, unwanted);
        }
        protocol.open()
    }

    fn connected(&self) {
        self.on_demand.iter().for_each(|on_demand| on_demand.set_connected(true));
        self.status.send_modify(|status| {
            tracing::info!(address = status.address, "the control plane's stream stands");
            status.connected = true;
            status.since = SystemTime::now();
            status.streams += 1;
            status.problem = None;
        });
    }

    async fn receive(&self, response: DeltaDiscoveryResponse) -> Reaction {
        if response.resources.len() + response.removed_resources.len() <= SMALL {
            return self.apply(&response);
        }
        let (protocol, snapshot) = (Arc::clone(&self.protocol), Arc::clone(&self.snapshot));
        let applying = spawn_blocking(move || (put_in_force(&protocol, &snapshot, &response), response));
        match applying.await {
            Ok((reaction, response)) => {
                self.account(&response, &reaction);
                reaction
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn apply(&self, response: &DeltaDiscoveryResponse) -> Reaction {
        let reaction = put_in_force(&self.protocol, &self.snapshot, response);
        self.account(response, &reaction);
        reaction
    }

    /// After it is in force: whoever waited for it looks at the snapshot now.
    fn account(&self, response: &DeltaDiscoveryResponse, reaction: &Reaction) {
        if let (Some(on_demand), Some(Kind::Address)) = (&self.on_demand, reaction.kind) {
            self.tell_waiting(on_demand, response);
            on_demand.keep_services();
        }
        for (name, reason) in reaction.effect.rejected.iter().take(10) {
            tracing::warn!(resource = name, reason, "the control plane sent what cannot be used");
        }
        let protocol = self.protocol.lock();
        self.status.send_modify(|status| {
            status.last_response = Some(SystemTime::now());
            status.waits_for = protocol.unanswered().map(Kind::name).collect();
            status.objects = protocol.holding.counts().into();
            status.on_demand = self.on_demand.as_ref().map(|on_demand| on_demand.len());
            let Some(kind) = reaction.kind else { return };
            let of_type = status.types.entry(kind.name()).or_default();
            of_type.responses += 1;
            of_type.resources += u64::try_from(response.resources.len()).unwrap_or(u64::MAX);
            of_type.refused += u64::from(!reaction.effect.rejected.is_empty());
            of_type.version.clone_from(&response.system_version_info);
            let rejected = protocol.rejected().iter().map(|((kind, name), reason)| RejectedResource {
                kind: kind.name(),
                name: name.clone(),
                reason: reason.clone(),
            });
            status.rejected = rejected.collect();
        });
    }

    fn tell_waiting(&self, on_demand: &OnDemand, response: &DeltaDiscoveryResponse) {
        let removed = response.removed_resources.iter().map(String::as_str);
        on_demand.answered(removed);
        on_demand.answered(response.resources.iter().flat_map(names).map(String::as_str));
        let snapshot = self.snapshot.load();
        for resource in &response.resources {
            on_demand.answered(addresses(&snapshot, &resource.name).iter().map(String::as_str));
        }
    }

    fn forget_untold(&self) {
        let mut snapshot = (*self.snapshot.load()).clone();
        let mut protocol = self.protocol.lock();
        if protocol.forget_untold(&mut snapshot) {
            self.snapshot.publish(snapshot);
            self.recount(&protocol);
        }
    }

    pub(super) fn recount(&self, protocol: &Protocol) {
        self.status.send_modify(|status| status.objects = protocol.holding.counts().into());
    }

    async fn newly_needed(&self) {
        match &self.on_demand {
            Some(on_demand) => on_demand.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    fn subscribe(&self) -> Vec<DeltaDiscoveryRequest> {
        let Some(on_demand) = &self.on_demand else { return Vec::new() };
        let Changes { wanted, unwanted } = on_demand.changes();
        self.protocol.lock().subscribe(wanted, unwanted)
    }
}

/// By which the workload or service of this name may have been asked for.
fn addresses(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let workload = snapshot.workload(&WorkloadUid::new(name));
    let service = name.parse::<ServiceKey>().ok().and_then(|key| snapshot.service(&key));
    let own = workload.into_iter().flat_map(|workload| workload.addresses()).map(|own| own.to_string());
    own.chain(service.into_iter().flat_map(|service| &service.vips).map(ToString::to_string)).collect()
}

fn put_in_force(
    protocol: &Mutex<Protocol>,
    shared: &SharedSnapshot,
    response: &DeltaDiscoveryResponse,
) -> Reaction {
    let mut snapshot = (*shared.load()).clone();
    let reaction = protocol.lock().receive(response, &mut snapshot);
    // Published once: no reader sees half a response.
    if reaction.effect.changed > 0 {
        shared.publish(snapshot);
    }
    reaction
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), SessionError> {
    match timeout(SEND_DEADLINE, requests.send(request)).await {
        Ok(Ok(())) => Ok(()),
        // The stream's end is told by its other half.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(SessionError::Stalled),
    }
}
