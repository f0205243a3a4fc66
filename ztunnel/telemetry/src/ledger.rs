//! The account of one connection, from accept to end, and the book of all that are open.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use model::{ClientAddr, OriginalDst, Role, SpiffeId, Workload, WorkloadUid, service::Service};
use parking_lot::Mutex;

use crate::{
    AccessLog, ByteCounters, Judgement, LiveConnection, LiveHandle, Outcome, Path, PlaintextBook, Proof,
    RefusalBook, ResponseFlags, TraceId,
    access_log::{self, ErrorBudget},
    account::{Account, Facts},
    judgement::Decisions,
    metrics::{Timings, connection_failed},
    series::SeriesCache,
};

/// Power of two; enough that a handful of data-plane threads rarely meet in one shard.
const SHARDS: usize = 32;

/// The live connections of this daemon.
#[derive(Default)]
pub struct Ledgers {
    next_id: AtomicU64,
    open: AtomicUsize,
    /// The most that were open at once, since somebody asked.
    crest: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
    series: SeriesCache,
    decisions: Arc<Decisions>,
    plaintext: Arc<PlaintextBook>,
    refusals: RefusalBook,
    timings: Timings,
    access_log: AccessLog,
    error_lines: ErrorBudget,
}

#[derive(Default)]
struct Shard {
    accounts: HashMap<u64, Arc<Account>>,
    /// How many of them each local workload has.
    counts: HashMap<WorkloadUid, usize>,
}

impl Shard {
    fn enter(&mut self, account: Arc<Account>) {
        *self.counts.entry(account.local.clone()).or_default() += 1;
        self.accounts.insert(account.id, account);
    }

    fn leave(&mut self, account: &Account) {
        self.accounts.remove(&account.id);
        match self.counts.get_mut(&account.local) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.counts.remove(&account.local)),
        }
    }
}

impl Ledgers {
    pub fn new(access_log: AccessLog) -> Self {
        Self { access_log, error_lines: ErrorBudget::new(access_log.errors), ..Self::default() }
    }

    pub fn open(
        self: &Arc<Self>,
        role: Role,
        local: WorkloadUid,
        client: ClientAddr,
        destination: OriginalDst,
    ) -> Ledger {
        let opened = Instant::now();
        let first_byte = match role {
            Role::Outbound => &self.timings.first_byte_source,
            Role::InboundPlaintext | Role::InboundHbone => &self.timings.first_byte_destination,
        };
        let account = Arc::new(Account {
            id: self.next_id.fetch_add(1, Relaxed),
            role,
            local,
            client,
            destination,
            opened,
            trace: OnceLock::new(),
            counters: Arc::new(ByteCounters::new(opened, first_byte.clone())),
            facts: Mutex::default(),
            judged: Mutex::default(),
            series: Default::default(),
        });
        self.crest.fetch_max(self.open.fetch_add(1, Relaxed) + 1, Relaxed);
        self.shard(account.id).lock().enter(Arc::clone(&account));
        Ledger { account, ledgers: Arc::clone(self), closed: false }
    }

    pub fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// How many there have been since the start.
    pub fn opened(&self) -> u64 {
        self.next_id.load(Relaxed)
    }

    /// The most that were open at once since this was last asked.
    pub fn take_crest(&self) -> usize {
        self.crest.swap(self.count(), Relaxed)
    }

    /// Who sends plaintext to this node's pods.
    pub fn plaintext(&self) -> &Arc<PlaintextBook> {
        &self.plaintext
    }

    /// What was refused or failed lately.
    pub fn refusals(&self) -> &RefusalBook {
        &self.refusals
    }

    /// Oldest first. Each is read only when it is asked.
    pub fn handles(&self) -> Vec<LiveHandle> {
        let mut handles: Vec<_> = self.accounts().into_iter().map(LiveHandle::new).collect();
        handles.sort_unstable_by_key(LiveHandle::id);
        handles
    }

    /// Where it is recorded how long things took.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Lets go of the metrics of those who have gone; to be called every few minutes.
    pub fn sweep(&self) {
        self.series.sweep();
        self.decisions.sweep();
    }

    /// Writes how many lines were held back of floods that have passed; to be called every few seconds.
    pub fn summarize(&self) {
        self.summarize_at(Instant::now());
    }

    pub(crate) fn summarize_at(&self, now: Instant) {
        self.error_lines.summarize(now);
    }

    /// In no particular order.
    pub fn live(&self) -> Vec<LiveConnection> {
        self.accounts().iter().map(|account| LiveConnection::of(account)).collect()
    }

    /// How many connections of this local workload are open.
    pub fn count_for(&self, local: &WorkloadUid) -> usize {
        self.shards.iter().map(|shard| shard.lock().counts.get(local).copied().unwrap_or_default()).sum()
    }

    /// Brings the metrics up to date with the bytes of connections that are still open.
    pub fn flush(&self) {
        for account in self.accounts() {
            account.flush();
        }
    }

    /// Copies shard by shard, so that no data-plane thread waits for a reader of the whole book.
    fn accounts(&self) -> Vec<Arc<Account>> {
        self.shards.iter().flat_map(copied).collect()
    }

    /// Of each shard the quickest of so many readings, of all shards the longest.
    #[cfg(test)]
    pub(crate) fn longest_hold(&self, readings: usize) -> std::time::Duration {
        let timed = |shard| {
            let started = Instant::now();
            drop(copied(shard));
            started.elapsed()
        };
        let quickest = |shard| (0..readings).map(|_| timed(shard)).min();
        self.shards.iter().filter_map(quickest).max().unwrap_or_default()
    }

    fn shard(&self, id: u64) -> &Mutex<Shard> {
        let index = usize::try_from(id % SHARDS as u64).unwrap_or_default();
        &self.shards[index]
    }
}

/// Its lock is held no longer than this takes.
fn copied(shard: &Mutex<Shard>) -> Vec<Arc<Account>> {
    shard.lock().accounts.values().map(Arc::clone).collect()
}

impl fmt::Debug for Ledgers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledgers").finish_non_exhaustive()
    }
}

/// One connection's account. Dropped without [`Ledger::close`] it records that the connection was cancelled.
#[derive(Debug)]
pub struct Ledger {
    account: Arc<Account>,
    ledgers: Arc<Ledgers>,
    closed: bool,
}

impl Ledger {
    pub fn set_path(&mut self, path: Path) {
        self.account.facts.lock().path = path;
    }

    pub fn set_source(&mut self, workload: &Arc<Workload>) {
        self.account.facts.lock().source = Some(Arc::clone(workload));
    }

    pub fn set_destination(&mut self, workload: &Arc<Workload>) {
        self.account.facts.lock().destination = Some(Arc::clone(workload));
    }

    pub fn set_service(&mut self, service: &Arc<Service>) {
        self.account.facts.lock().service = Some(Arc::clone(service));
    }

    /// The first one stays.
    pub fn set_trace(&mut self, trace: TraceId) {
        let _ = self.account.trace.set(trace);
    }

    pub fn trace(&self) -> Option<TraceId> {
        self.account.trace.get().copied()
    }

    /// Who the two ends are, beyond doubt: what a peer merely says of itself may not be recorded here.
    pub fn set_identities(&mut self, source: SpiffeId, destination: SpiffeId, proof: Proof) {
        let mut facts = self.account.facts.lock();
        facts.identities = Some((source, destination));
        facts.proof = proof;
    }

    /// The connection stands and bytes may flow. What is known now is what its metrics are counted under.
    pub fn establish(&mut self) {
        self.count_opened().start_bytes();
    }

    /// Where to note what policy says of this connection.
    pub fn judgement(&self) -> Judgement {
        Judgement { account: Arc::clone(&self.account), decisions: Arc::clone(&self.ledgers.decisions) }
    }

    pub fn counters(&self) -> Arc<ByteCounters> {
        Arc::clone(&self.account.counters)
    }

    pub fn close(mut self, outcome: &Outcome) {
        self.finish(outcome);
    }

    fn count_opened(&self) -> &Arc<crate::series::Series> {
        self.account.series.get_or_init(|| {
            let facts: Facts = self.account.facts.lock().clone();
            let series = self.ledgers.series.of(self.account.role, facts);
            series.opened.increment(1);
            series
        })
    }

    fn finish(&mut self, outcome: &Outcome) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let account = &self.account;
        self.ledgers.shard(account.id).lock().leave(account);
        self.ledgers.open.fetch_sub(1, Relaxed);
        let stood = account.series.get().is_some();
        let series = self.count_opened();
        account.flush();
        series.closed(outcome.flags()).increment(1);
        if !stood && outcome.flags() != ResponseFlags::None {
            series.failed(outcome.flags()).increment(1);
        }
        if outcome.flags() != ResponseFlags::None {
            self.ledgers.refusals.note_outcome(account, outcome);
            connection_failed(account.reporter(), outcome.reason());
        }
        let went_well = outcome.flags() == ResponseFlags::None;
        if self.ledgers.access_log.wants(account, outcome)
            && (went_well || self.ledgers.error_lines.admits(account, Instant::now()))
        {
            access_log::write(account, outcome);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.finish(&Outcome::Cancelled);
    }
}
