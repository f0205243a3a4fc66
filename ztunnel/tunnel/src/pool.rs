//! The outbound connections, shared by the streams that may share them.
//!
//! The lock guards two maps for the time of a look-up; connecting happens in tasks of its own. So a slow peer delays
//! only those who wait for it, and a dialer that goes away takes nobody's connection along.

mod connection;
mod key;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Request;
use model::WorkloadUid;
use parking_lot::Mutex;
use tokio::{sync::SetOnce, task::AbortHandle};

pub(crate) use connection::{Driver, Live, start};
use connection::{OpenError, Owner};
pub(crate) use key::Key;

use crate::{
    Dialed, TunnelSettings,
    error::DialError,
    window::{Budgets, Gauge, Slot, StreamReservation},
};

/// Makes a connection.
pub(crate) type Establish = Box<dyn FnOnce(Arc<Gauge>) -> Establishing + Send>;
pub(crate) type Establishing = BoxFuture<'static, Result<(Live, Box<Driver>), DialError>>;

pub(crate) struct Pool {
    state: Mutex<State>,
    /// The window that a new connection's streams have.
    window: u32,
    streams_per_connection: u32,
    connections: usize,
    connections_per_source: usize,
    budgets: Budgets,
}

#[derive(Default)]
struct State {
    /// Those that new streams may use.
    shared: HashMap<Key, Vec<Arc<Entry>>>,
    /// All that stand, including those that only finish their streams.
    tasks: HashMap<u64, Task>,
    /// How many of them each source has.
    of_source: HashMap<WorkloadUid, usize>,
    last_id: u64,
    draining: bool,
}

struct Task {
    source: WorkloadUid,
    handle: AbortHandle,
}

/// A connection, or the attempt to make it.
struct Entry {
    id: u64,
    gauge: Arc<Gauge>,
    outcome: SetOnce<Result<Live, DialError>>,
}

/// The right to one stream on a connection.
struct Lease {
    entry: Arc<Entry>,
    slot: Slot,
}

struct Failed {
    error: DialError,
    /// Nothing came of it on a shared connection: that one, and what makes another.
    again: Option<(u64, Establish)>,
}

/// A task's place in the pool, given up when it ends in whatever way.
struct Registration {
    pool: Weak<Pool>,
    key: Key,
    id: u64,
}

/// Those who wait for a connection learn what came of it, even if its task is ended from outside.
struct Attempt(Arc<Entry>);

impl Pool {
    pub(crate) fn new(settings: &TunnelSettings, budgets: &Budgets) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            window: settings.windows.initial,
            streams_per_connection: settings.streams_per_connection,
            connections: settings.pool_connections,
            connections_per_source: settings.pool_connections_per_source,
            budgets: budgets.clone(),
        })
    }

    /// How many connections stand or are being made.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().tasks.len()
    }

    /// A stream on a connection for `key`: a shared one, or the one that `establish` makes. A stream that a shared
    /// connection did not process is tried elsewhere: a peer that drains has said GOAWAY on all of them.
    pub(crate) async fn open(
        self: &Arc<Self>,
        key: &Key,
        mut establish: Establish,
        request: Request<()>,
        deadline: Duration,
    ) -> Result<Dialed, DialError> {
        // Never the same one twice, and a connection of its own is the last: it ends.
        let mut avoid = Vec::new();
        loop {
            match self.attempt(key, &avoid, establish, request.clone(), deadline).await {
                Err(Failed { again: Some((id, unused)), .. }) => {
                    avoid.push(id);
                    establish = unused;
                }
                opened => return opened.map_err(|failed| failed.error),
            }
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        key: &Key,
        avoid: &[u64],
        establish: Establish,
        request: Request<()>,
        deadline: Duration,
    ) -> Result<Dialed, Failed> {
        let (lease, unused) = self.lease(key, avoid, establish)?;
        let id = lease.entry.id;
        lease.open(request, deadline).await.map_err(|failure| {
            if failure.spent {
                self.forget(key, id);
            }
            let again = unused.filter(|_| failure.unprocessed).map(|establish| (id, establish));
            Failed { error: failure.error, again }
        })
    }

    /// A place on a connection for `key` that is none of `avoid`. What would have made a new connection is given back if
    /// there was one to share.
    fn lease(
        self: &Arc<Self>,
        key: &Key,
        avoid: &[u64],
        establish: Establish,
    ) -> Result<(Lease, Option<Establish>), DialError> {
        let mut state = self.state.lock();
        if state.draining {
            return Err(DialError::Draining);
        }
        let window = self.budgets.stream(&key.source).ok_or(DialError::Windows)?;
        let known = state.shared.get(key).into_iter().flatten();
        let shared = known.filter(|entry| !avoid.contains(&entry.id)).find_map(|entry| self.place_on(entry));
        if let Some(lease) = shared {
            return Ok((lease.holding(window), Some(establish)));
        }
        if state.tasks.len() >= self.connections {
            return Err(DialError::PoolFull);
        }
        if state.of_source.get(&key.source_uid).is_some_and(|&count| count >= self.connections_per_source) {
            return Err(DialError::SourcePoolFull);
        }
        let entry = self.connect(&mut state, key, establish);
        let lease = self.place_on(&entry).ok_or(DialError::PoolFull)?;
        Ok((lease.holding(window), None))
    }

    /// New streams go elsewhere; the connection ends with its last stream.
    fn forget(&self, key: &Key, id: u64) {
        let forgotten = self.state.lock().forget(key, id, |_| true);
        // Its drop wakes tasks: not under the lock.
        drop(forgotten);
    }

    /// The connections that leave this workload end now.
    pub(crate) fn retire(&self, source: &WorkloadUid) {
        let state = self.state.lock();
        for task in state.tasks.values().filter(|task| task.source == *source) {
            task.handle.abort();
        }
    }

    /// No stream is opened any more; connections end with their last stream.
    pub(crate) fn drain(&self) {
        let shared = {
            let mut state = self.state.lock();
            state.draining = true;
            std::mem::take(&mut state.shared)
        };
        drop(shared);
    }

    fn place_on(&self, entry: &Arc<Entry>) -> Option<Lease> {
        let slot = entry.gauge.slot(self.streams_per_connection)?;
        if slot.is_last_of(self.streams_per_connection) {
            self.budgets.load.outbound_is_full();
        }
        Some(Lease { entry: Arc::clone(entry), slot })
    }

    fn connect(self: &Arc<Self>, state: &mut State, key: &Key, establish: Establish) -> Arc<Entry> {
        state.last_id += 1;
        let id = state.last_id;
        let gauge = Arc::new(Gauge::new(self.window, &self.budgets.load));
        // Until the peer says what it allows on this connection, it is taken to be what it allows on the others.
        let others = state.shared.get(key).into_iter().flatten();
        if let Some(allowed) = others.map(|entry| entry.gauge.allowed()).min() {
            gauge.allow(allowed.max(1));
        }
        let establishing = establish(Arc::clone(&gauge));
        let entry = Arc::new(Entry { id, gauge, outcome: SetOnce::new() });
        let registration = Registration { pool: Arc::downgrade(self), key: key.clone(), id };
        let task = tokio::spawn(run(registration, Attempt(Arc::clone(&entry)), establishing));
        state.tasks.insert(id, Task { source: key.source_uid.clone(), handle: task.abort_handle() });
        *state.of_source.entry(key.source_uid.clone()).or_default() += 1;
        state.shared.entry(key.clone()).or_default().push(Arc::clone(&entry));
        entry
    }
}

async fn run(registration: Registration, attempt: Attempt, establishing: Establishing) {
    // Not as part of the match: what it took to connect would be held as long as the connection.
    let established = establishing.await;
    match established {
        Ok((live, driver)) => {
            attempt.succeeded(live);
            driver.run(&registration).await;
        }
        Err(error) => {
            // First, so that who learns of the failure and tries again does not meet it again.
            drop(registration);
            attempt.failed(error);
        }
    }
}

impl State {
    fn count_down(&mut self, source: &WorkloadUid) {
        let Some(count) = self.of_source.get_mut(source) else { return };
        *count -= 1;
        if *count == 0 {
            self.of_source.remove(source);
        }
    }

    fn forget(&mut self, key: &Key, id: u64, only_if: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let entries = self.shared.get_mut(key)?;
        let position = entries.iter().position(|entry| entry.id == id && only_if(entry))?;
        let forgotten = entries.swap_remove(position);
        if entries.is_empty() {
            self.shared.remove(key);
        }
        Some(forgotten)
    }
}

impl Lease {
    fn holding(mut self, window: StreamReservation) -> Self {
        self.slot = self.slot.holding(window);
        self
    }

    /// Waits for the connection if it is being made, then for the answer to `request`.
    async fn open(self, request: Request<()>, deadline: Duration) -> Result<Dialed, OpenError> {
        match self.entry.outcome.wait().await {
            Ok(live) => live.open(request, self.slot, deadline).await,
            Err(error) => Err(OpenError::answered(error.clone())),
        }
    }
}

impl From<DialError> for Failed {
    fn from(error: DialError) -> Self {
        Self { error, again: None }
    }
}

impl Registration {
    /// Of all that are shared with this one, itself included, the condition knows how many there are.
    fn forget_if(&self, condition: impl Fn(&Entry, usize) -> bool) {
        if let Some(pool) = self.pool.upgrade() {
            let mut state = pool.state.lock();
            let sharing = state.shared.get(&self.key).map_or(0, Vec::len);
            let forgotten = state.forget(&self.key, self.id, |entry| condition(entry, sharing));
            drop(state);
            // Its drop wakes tasks: not under the lock.
            drop(forgotten);
        }
    }
}

impl Owner for Registration {
    fn forget(&self) {
        self.forget_if(|_, _| true);
    }

    fn forget_if_unused(&self) {
        self.forget_if(|entry, _| entry.gauge.streams() == 0);
    }

    fn forget_if_surplus(&self) {
        self.forget_if(|entry, sharing| entry.gauge.streams() == 0 && sharing > 1);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            let mut state = pool.state.lock();
            if state.tasks.remove(&self.id).is_some() {
                state.count_down(&self.key.source_uid);
            }
            let forgotten = state.forget(&self.key, self.id, |_| true);
            drop(state);
            drop(forgotten);
        }
    }
}

impl Attempt {
    fn succeeded(self, live: Live) {
        let _ = self.0.outcome.set(Ok(live));
    }

    fn failed(self, error: DialError) {
        let _ = self.0.outcome.set(Err(error));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.0.outcome.get().is_none() {
            let _ = self.0.outcome.set(Err(DialError::Retired));
        }
    }
}
