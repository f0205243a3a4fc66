//! One daemon's stream. It is told what is newest when it has answered what it was told before: who is slow holds nothing
//! but its own place in the book.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{Stream, StreamExt};
use parking_lot::RwLock;
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    tonic::Status,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::Sender},
    time::{Instant, interval_at, sleep_until, timeout},
};

use super::subscription::{Due, Hopeless, Subscription};
use crate::{
    authentication::Caller,
    book::{Book, Kind},
    inventory::Inventory,
    probes::Counters,
    server::Guest,
};

/// After this, and up to a half more, it begins anew, with a token that is looked at again; it is told only what differs.
const LONGEST: Duration = Duration::from_secs(3600);
/// For a whole mesh to be answered before others have their turn.
const TURN: Duration = Duration::from_secs(10);
/// For a response to be answered. Then the connection is cut: what waits to be sent on it is memory that nobody takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the daemon's pod is still there.
const LOOK: Duration = Duration::from_secs(30);
/// Of what a daemon says of a refusal, in the log.
const MAX_WORDS: usize = 500;

pub(super) type Requests<'a> = Pin<Box<dyn Stream<Item = DeltaDiscoveryRequest> + Send + 'a>>;
pub(super) type Outgoing = Sender<Result<DeltaDiscoveryResponse, Status>>;

/// What all streams have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) book: Arc<Book>,
    pub(super) counters: Arc<Counters>,
    /// Places for whole meshes.
    pub(super) large: Arc<Semaphore>,
    pub(super) inventory: Arc<RwLock<Inventory>>,
}

pub(super) struct Session {
    shared: Shared,
    /// The daemon.
    caller: Arc<Caller>,
    guest: Guest,
    address: Subscription,
    authorization: Subscription,
    responses: u64,
    /// While a whole mesh is on its way, and until when.
    place: Option<(OwnedSemaphorePermit, Instant)>,
    /// Since when there is an answer to come, by sort.
    unanswered: BTreeMap<Kind, Instant>,
}

impl Session {
    pub(super) fn new(shared: Shared, caller: Arc<Caller>, guest: Guest) -> Self {
        let (address, authorization, unanswered) = Default::default();
        Self { shared, caller, guest, address, authorization, responses: 0, place: None, unanswered }
    }

    /// Until the daemon ends it, or it cannot go on.
    pub(super) async fn run(mut self, mut requests: Requests<'_>, outgoing: &Outgoing) -> Result<(), Status> {
        let counters = Arc::clone(&self.shared.counters);
        counters.streams.fetch_add(1, Ordering::Relaxed);
        let _open = Ending(&counters);
        let mut newest = self.shared.book.newest();
        let end = Instant::now() + LONGEST + spread(self.who());
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        loop {
            if *newest.borrow_and_update() > 0 {
                self.tell(outgoing).await?;
            }
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => self.receive(request)?,
                    None => return Ok(()),
                },
                changed = newest.changed() => if changed.is_err() { return Ok(()) },
                () = outgoing.closed() => return Ok(()),
                () = sleep_until(end) => return Ok(()),
                () = sleep_until(self.overdue().unwrap_or(end)) => return Err(self.cut()),
                () = sleep_until(self.place.as_ref().map_or(end, |(_, until)| *until)) => self.place = None,
                _ = look.tick() => if !self.is_there() {
                    return Err(Status::unauthenticated("the daemon's pod is gone"));
                },
            }
        }
    }

    fn who(&self) -> &str {
        self.caller.pod.as_deref().unwrap_or_default()
    }

    /// When the first of what was told should have been answered.
    fn overdue(&self) -> Option<Instant> {
        self.unanswered.values().min().map(|since| *since + PATIENCE)
    }

    fn cut(&self) -> Status {
        self.shared.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            daemon = self.who(),
            "a daemon did not answer what it was told: its connection is cut"
        );
        self.guest.cut();
        Status::deadline_exceeded("the response was not answered in time")
    }

    /// A token may be good for hours after its pod is gone.
    fn is_there(&self) -> bool {
        let inventory = self.shared.inventory.read();
        let Some(name) = self.caller.pod.as_deref().filter(|_| inventory.is_complete()) else { return true };
        let pod = inventory.pod(&inventory.own().namespace, name);
        pod.is_some_and(|pod| self.caller.pod_uid.as_ref().is_none_or(|uid| *uid == pod.uid))
    }

    /// All that is due.
    async fn tell(&mut self, outgoing: &Outgoing) -> Result<(), Status> {
        for kind in Kind::ALL {
            // Taken before the response is put together, so that those who wait for their turn cost nothing.
            // Workloads name policies: one that it does not know yet would refuse everybody.
            if kind == Kind::Address && self.authorization.unanswered.is_some() {
                continue;
            }
            let book = Arc::clone(&self.shared.book);
            if kind == Kind::Address && self.place.is_none() && self.address.is_large(kind, &book) {
                let place = Arc::clone(&self.shared.large).acquire_owned().await;
                self.place = place.ok().map(|place| (place, Instant::now() + TURN));
            }
            let due = self.subscription(kind).due(kind, &book).map_err(|hopeless| status(&hopeless))?;
            if let Some(due) = due {
                self.send(kind, due, outgoing).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, kind: Kind, due: Due, outgoing: &Outgoing) -> Result<(), Status> {
        self.responses += 1;
        let nonce = self.responses.to_string();
        let sent = due.resources.len() + due.removed.len();
        let counters = &self.shared.counters;
        counters.responses.fetch_add(1, Ordering::Relaxed);
        counters.resources.fetch_add(u64::try_from(sent).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.subscription(kind).unanswered = Some(nonce.clone());
        self.unanswered.insert(kind, Instant::now());
        let response = DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources: due.resources,
            type_url: kind.type_url().to_owned(),
            nonce,
            removed_resources: due.removed,
        };
        match timeout(PATIENCE, outgoing.send(Ok(response))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the stream is gone")),
            Err(_) => Err(self.cut()),
        }
    }

    fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return Err(Status::invalid_argument("only addresses and authorizations are served"));
        };
        let subscription = self.subscription(kind);
        let answers = subscription.unanswered.as_ref().is_some_and(|nonce| *nonce == request.response_nonce);
        if answers {
            subscription.unanswered = None;
        }
        let asked = subscription.ask(request.clone());
        if answers {
            self.unanswered.remove(&kind);
        }
        if answers && kind == Kind::Address {
            self.place = None;
        }
        if let Some(error) = request.error_detail.filter(|_| answers) {
            let problem: String = error.message.chars().take(MAX_WORDS).collect();
            self.shared.counters.refused_responses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(daemon = self.who(), kind = ?kind, problem, "a daemon refused resources");
        }
        asked.map_err(|hopeless| status(&hopeless))
    }

    fn subscription(&mut self, kind: Kind) -> &mut Subscription {
        match kind {
            Kind::Address => &mut self.address,
            Kind::Authorization => &mut self.authorization,
        }
    }
}

fn status(hopeless: &Hopeless) -> Status {
    match hopeless {
        Hopeless::TooMuch => Status::resource_exhausted("too many names are asked for"),
        Hopeless::TooFarBehind => Status::aborted("too far behind; come back with what you have"),
    }
}

/// Daemons that came together do not come again together.
fn spread(who: &str) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    Duration::from_secs(RandomState::new().hash_one(who) % (LONGEST.as_secs() / 2))
}

struct Ending<'a>(&'a Counters);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
