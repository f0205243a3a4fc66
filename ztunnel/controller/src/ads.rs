//! State for the daemons: delta ADS, as istiod serves it.

use std::sync::{Arc, atomic::Ordering};

use futures::{
    Stream, StreamExt,
    stream::{BoxStream, unfold},
};
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    tonic::{Status, Streaming, metadata::MetadataMap},
};
use tokio::sync::{Semaphore, mpsc};

mod callers;
mod framing;
mod session;
mod subscription;
#[cfg(test)]
mod tests;

use callers::Callers;
pub(crate) use framing::answer;
use parking_lot::RwLock;
use session::{Session, Shared};

use crate::{
    authentication::Authenticator, book::Book, inventory::Inventory, probes::Counters, server::Guest,
};

/// Daemons: one for each node, two of them during an update.
const STREAMS: usize = 10_000;
/// Responses with all there is that are encoded and on their way at once: each may be as large as the mesh.
const LARGE_RESPONSES: usize = 2;

/// Clones serve the same.
#[derive(Clone)]
pub(crate) struct Discovery {
    pub(crate) book: Arc<Book>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) inventory: Arc<RwLock<Inventory>>,
    streams: Arc<Semaphore>,
    large: Arc<Semaphore>,
    callers: Callers,
}

impl Discovery {
    pub(crate) fn new(
        book: Arc<Book>,
        authenticator: Arc<Authenticator>,
        counters: Arc<Counters>,
        inventory: Arc<RwLock<Inventory>>,
    ) -> Self {
        let [streams, large] = [STREAMS, LARGE_RESPONSES].map(|places| Arc::new(Semaphore::new(places)));
        Self { book, authenticator, counters, inventory, streams, large, callers: Callers::default() }
    }
}

pub(super) type Responses = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

impl Discovery {
    /// A daemon's stream.
    async fn open(
        &self,
        metadata: &MetadataMap,
        guest: Guest,
        mut requests: Streaming<DeltaDiscoveryRequest>,
    ) -> Result<Responses, Status> {
        let caller = self.authenticator.daemon(metadata).await.inspect_err(|_| {
            self.counters.refused_tokens.fetch_add(1, Ordering::Relaxed);
        })?;
        guest.prove();
        let place = Arc::clone(&self.streams).try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("too many streams"))?;
        let (outgoing, responses) = mpsc::channel(1);
        let turn = self.callers.enter(&caller);
        let shared = Shared {
            book: Arc::clone(&self.book),
            counters: Arc::clone(&self.counters),
            large: Arc::clone(&self.large),
            inventory: Arc::clone(&self.inventory),
        };
        let session = Session::new(shared, caller, guest);
        tokio::spawn(async move {
            let _place = place;
            let ended = tokio::select! {
                ended = session.run(Box::pin(unfold_requests(&mut requests)), &outgoing) => ended,
                () = turn.is_over() => Err(Status::aborted("this daemon has opened other streams since")),
            };
            if let Err(status) = ended {
                let _ = outgoing.try_send(Err(status));
            }
        });
        let responses = unfold(responses, |mut responses| async move {
            responses.recv().await.map(|response| (response, responses))
        });
        Ok(responses.boxed())
    }
}

/// Until the stream ends, properly or not.
fn unfold_requests(
    requests: &mut Streaming<DeltaDiscoveryRequest>,
) -> impl Stream<Item = DeltaDiscoveryRequest> + Send + '_ {
    unfold(requests, |requests| async move {
        let request = requests.message().await.ok().flatten()?;
        Some((request, requests))
    })
}
