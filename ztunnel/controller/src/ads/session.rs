//! One daemon's stream. It is told what is newest when it has answered what it was told before: who is slow holds nothing
//! but its own place in the book.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{Stream, StreamExt};
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    tonic::Status,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::Sender},
    time::{Instant, sleep_until, timeout},
};

use super::subscription::{Due, Hopeless, Subscription};
use crate::{
    book::{Book, Kind},
    probes::Counters,
};

/// After this, and up to a half more, it begins anew, with a token that is looked at again; it is told only what differs.
const LONGEST: Duration = Duration::from_secs(3600);
/// For a response to be taken, and for a whole mesh to be answered, before others have their turn.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of what a daemon says of a refusal, in the log.
const MAX_WORDS: usize = 500;

pub(super) type Requests<'a> = Pin<Box<dyn Stream<Item = DeltaDiscoveryRequest> + Send + 'a>>;
pub(super) type Outgoing = Sender<Result<DeltaDiscoveryResponse, Status>>;

pub(super) struct Session {
    book: Arc<Book>,
    counters: Arc<Counters>,
    large: Arc<Semaphore>,
    /// The daemon's pod.
    who: String,
    address: Subscription,
    authorization: Subscription,
    responses: u64,
    /// While a whole mesh is on its way, and until when.
    place: Option<(OwnedSemaphorePermit, Instant)>,
}

impl Session {
    pub(super) fn new(book: Arc<Book>, counters: Arc<Counters>, large: Arc<Semaphore>, who: String) -> Self {
        let (address, authorization) = Default::default();
        Self { book, counters, large, who, address, authorization, responses: 0, place: None }
    }

    /// Until the daemon ends it, or it cannot go on.
    pub(super) async fn run(mut self, mut requests: Requests<'_>, outgoing: &Outgoing) -> Result<(), Status> {
        self.counters.streams.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::clone(&self.counters);
        let _open = Ending(&counters);
        let mut newest = self.book.newest();
        let end = Instant::now() + LONGEST + spread(&self.who);
        loop {
            if *newest.borrow_and_update() > 0 {
                self.tell(outgoing).await?;
            }
            let place_ends = self.place.as_ref().map_or(end, |(_, until)| *until);
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => self.receive(request)?,
                    None => return Ok(()),
                },
                changed = newest.changed() => if changed.is_err() { return Ok(()) },
                () = outgoing.closed() => return Ok(()),
                () = sleep_until(place_ends.min(end)) => {
                    if Instant::now() >= end {
                        return Ok(());
                    }
                    self.place = None;
                }
            }
        }
    }

    /// All that is due.
    async fn tell(&mut self, outgoing: &Outgoing) -> Result<(), Status> {
        for kind in Kind::ALL {
            // Taken before the response is put together, so that those who wait for their turn cost nothing.
            if kind == Kind::Address && self.address.begins() && self.place.is_none() {
                let place = Arc::clone(&self.large).acquire_owned().await;
                self.place = place.ok().map(|place| (place, Instant::now() + PATIENCE));
            }
            let book = Arc::clone(&self.book);
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
        self.counters.responses.fetch_add(1, Ordering::Relaxed);
        self.counters.resources.fetch_add(u64::try_from(sent).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.subscription(kind).unanswered = Some(nonce.clone());
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
            Err(_) => Err(Status::deadline_exceeded("the response was not taken in time")),
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
        if answers && kind == Kind::Address {
            self.place = None;
        }
        if let Some(error) = request.error_detail.filter(|_| answers) {
            let problem: String = error.message.chars().take(MAX_WORDS).collect();
            self.counters.refused_responses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(daemon = self.who, kind = ?kind, problem, "a daemon refused resources");
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
