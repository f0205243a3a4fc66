//! The connections of one pod that stand: those let in, and those out past the mesh. When the mesh
//! state changes, each is asked again whether it would be allowed; if not, it ends with that refusal.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use model::{
    ApplicationRoute, ClientAddr, Permit, Refusal, Snapshot, SpiffeId, Workload, WorkloadUid,
    authorize::{InboundFacts, MtlsMode, authorize_inbound, authorize_outsider},
    proxy_protocol::Header,
    service::ServiceKey,
};
use parking_lot::Mutex;
use telemetry::Judgement;
use tokio::sync::{oneshot, watch};

/// Connections that are judged without a pause.
const SLICE: usize = 128;

#[derive(Debug)]
pub(crate) struct Standing<C> {
    mtls: watch::Receiver<Option<MtlsMode>>,
    book: Mutex<Book<C>>,
}

/// What a connection is allowed on.
pub(crate) trait Ground {
    fn holds(&self, snapshot: &Snapshot, mtls: Option<MtlsMode>) -> Result<(), Refusal>;
}

#[derive(Debug)]
struct Book<C> {
    next: u64,
    entries: BTreeMap<u64, Entry<C>>,
}

#[derive(Debug)]
struct Entry<C> {
    claim: Arc<C>,
    revoke: oneshot::Sender<Refusal>,
}

/// What a connection is let in on.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) workload: Arc<Workload>,
    pub(crate) client: ClientAddr,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) target: SocketAddr,
    /// What the client named, for an application that is told.
    pub(crate) named: SocketAddr,
    pub(crate) judgement: Judgement,
}

impl Claim {
    /// Against the workload as it is now, or as it was if the state no longer has it.
    fn judge(
        &self,
        snapshot: &Snapshot,
        mtls: Option<MtlsMode>,
    ) -> Result<Permit<ApplicationRoute>, Refusal> {
        let Self { client, target, .. } = *self;
        let workload = snapshot.workload(&self.workload.uid).unwrap_or(&self.workload);
        let facts = InboundFacts { client, peer: self.peer.as_ref(), target, mtls };
        let verdict = authorize_inbound(snapshot, workload, &facts);
        self.judgement.note(&verdict);
        verdict.decision.map(|allowed| allowed.permit)
    }
}

impl Ground for Claim {
    fn holds(&self, snapshot: &Snapshot, mtls: Option<MtlsMode>) -> Result<(), Refusal> {
        self.judge(snapshot, mtls).map(drop)
    }
}

/// What a connection past the mesh is let out on.
#[derive(Debug)]
pub(crate) struct Leave {
    pub(crate) source: Arc<Workload>,
    pub(crate) target: SocketAddr,
    /// Whom the mesh knew it to lead to.
    pub(crate) destination: Option<WorkloadUid>,
    pub(crate) service: Option<ServiceKey>,
}

impl Ground for Leave {
    fn holds(&self, snapshot: &Snapshot, _: Option<MtlsMode>) -> Result<(), Refusal> {
        let Self { destination, service, .. } = self;
        let is_known = destination.as_ref().is_some_and(|uid| snapshot.workload(uid).is_some())
            || service.as_ref().is_some_and(|key| snapshot.service(key).is_some());
        if is_known {
            return Ok(());
        }
        let source = snapshot.workload(&self.source.uid).unwrap_or(&self.source);
        authorize_outsider(snapshot, source, self.target)
    }
}

impl<C: Ground> Standing<C> {
    pub(crate) fn new(mtls: watch::Receiver<Option<MtlsMode>>) -> Arc<Self> {
        Arc::new(Self { mtls, book: Mutex::new(Book { next: 0, entries: BTreeMap::new() }) })
    }

    /// What the node asks of those who connect to this pod.
    pub(crate) fn mtls(&self) -> Option<MtlsMode> {
        *self.mtls.borrow()
    }

    /// From here on the claim is judged again at every change. To be entered before the first judgement, so that
    /// no change falls between the two.
    pub(crate) fn enter(self: &Arc<Self>, claim: C) -> Place<C> {
        let claim = Arc::new(claim);
        let (revoke, revoked) = oneshot::channel();
        let mut book = self.book.lock();
        let number = book.next;
        book.next += 1;
        book.entries.insert(number, Entry { claim: Arc::clone(&claim), revoke });
        Place { standing: Arc::clone(self), number, claim, revoked }
    }

    /// Revokes what this state, or the pod as it is now, would not let in. Thousands are judged in slices, so that nobody
    /// waits for all of them. Who is entered meanwhile is judged by this state or a newer one anyway.
    pub(crate) async fn recheck(&self, snapshot: &Snapshot) {
        let mtls = self.mtls();
        let mut from = 0;
        loop {
            let slice = self.slice(from);
            let Some(&(last, _)) = slice.last() else { return };
            for (number, claim) in slice {
                if let Err(refusal) = claim.holds(snapshot, mtls)
                    && let Some(entry) = self.book.lock().entries.remove(&number)
                {
                    // It may have ended by itself in this moment.
                    let _ = entry.revoke.send(refusal);
                }
            }
            from = last + 1;
            tokio::task::yield_now().await;
        }
    }

    fn slice(&self, from: u64) -> Vec<(u64, Arc<C>)> {
        let book = self.book.lock();
        let entries = book.entries.range(from..).take(SLICE);
        entries.map(|(&number, entry)| (number, Arc::clone(&entry.claim))).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Place<C> {
    standing: Arc<Standing<C>>,
    number: u64,
    claim: Arc<C>,
    revoked: oneshot::Receiver<Refusal>,
}

impl Place<Claim> {
    pub(crate) fn judge(&self, snapshot: &Snapshot) -> Result<Permit<ApplicationRoute>, Refusal> {
        self.claim.judge(snapshot, self.standing.mtls())
    }

    /// What an application that ends tunnels itself is told.
    pub(crate) fn header(&self) -> Header {
        let Claim { client: ClientAddr(client), named, .. } = *self.claim;
        Header { client, destination: named, peer: self.claim.peer.clone() }
    }
}

impl<C: Ground> Place<C> {
    pub(crate) fn check(&self, snapshot: &Snapshot) -> Result<(), Refusal> {
        self.claim.holds(snapshot, self.standing.mtls())
    }

    /// Why the connection may no longer stand; pending while it may.
    pub(crate) async fn revoked(&mut self) -> Refusal {
        match (&mut self.revoked).await {
            Ok(refusal) => refusal,
            // Only this place's own drop forgets the sender.
            Err(_) => std::future::pending().await,
        }
    }
}

impl<C> Drop for Place<C> {
    fn drop(&mut self) {
        self.standing.book.lock().entries.remove(&self.number);
    }
}
