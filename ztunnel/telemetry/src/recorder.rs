//! What all metrics are recorded in: the recorder behind the `metrics` facade.
//!
//! A handle is an atomic and stays one for as long as it is held: a series is dropped only while nobody holds it, under
//! the lock that hands it out. New series are sent to the exporter, which keeps a list of its own, so no scrape takes a
//! lock that connections take. Peers have a say in some labels, so a family has room for so many series and no more.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, fence},
        mpsc::{Sender, channel},
    },
};

use ::metrics::{Counter, Gauge, Key, KeyName, Metadata, SharedString, Unit};
use parking_lot::{Mutex, RwLock};

mod exporter;
mod histogram;
#[cfg(test)]
mod tests;
mod text;

pub use exporter::{Exporter, Page};
use histogram::Histogram;

/// Series of one family. One that finds no room is counted under `unknown`.
pub(crate) const MAX_SERIES: usize = 10_000;

/// How often a new series found no room in its family.
pub(crate) const OVERFLOW: &str = "ztunnel_metric_series_overflow_total";

/// Power of two; a shard is locked for a look-up.
const SHARDS: usize = 64;

/// Clones record into the same.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    families: RwLock<BTreeMap<String, Arc<Family>>>,
    shards: [Mutex<HashSet<ByText>>; SHARDS],
    hasher: RandomState,
    /// Families whose series come and go with workloads and policies.
    idling: &'static [&'static str],
    arrivals: Sender<Arc<Entry>>,
}

#[derive(Debug)]
struct Family {
    name: String,
    kind: Kind,
    help: OnceLock<SharedString>,
    idles: bool,
    series: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
struct Entry {
    /// `name{label="value",...}`, as it is rendered.
    text: String,
    family: Arc<Family>,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Histogram>),
}

#[derive(Debug)]
struct ByText(Arc<Entry>);

/// A recorder and what renders it. Series of `idling` families are dropped when nothing was counted in them for long.
pub(crate) fn recorder(idling: &'static [&'static str]) -> (Recorder, Exporter) {
    let (arrivals, arrived) = channel();
    let shared = Arc::new(Shared {
        families: RwLock::default(),
        shards: std::array::from_fn(|_| Mutex::default()),
        hasher: RandomState::new(),
        idling,
        arrivals,
    });
    (Recorder(Arc::clone(&shared)), Exporter::new(shared, arrived))
}

impl Shared {
    fn family(&self, name: &str, kind: Kind) -> Arc<Family> {
        if let Some(family) = self.families.read().get(name) {
            return Arc::clone(family);
        }
        let idles = self.idling.contains(&name);
        let name = name.to_owned();
        let new = || {
            let (name, help, series) = (name.clone(), OnceLock::new(), AtomicUsize::new(0));
            Arc::new(Family { name, kind, help, idles, series })
        };
        Arc::clone(self.families.write().entry(name.clone()).or_insert_with(new))
    }

    fn describe(&self, name: &str, kind: Kind, help: SharedString) {
        // Described twice, in the same words.
        let _ = self.family(name, kind).help.set(help);
    }

    fn series(&self, key: &Key, kind: Kind) -> Value {
        let family = self.family(key.name(), kind);
        if let Some(value) = self.look_up(&family, text::series(key), false) {
            return value;
        }
        self.count_overflow(key.name());
        let crowded = self.look_up(&family, text::folded(key), true);
        crowded.unwrap_or_else(|| Value::new(kind))
    }

    /// `None`: it is new, and there is no room for it. What must be there is made beyond that.
    fn look_up(&self, family: &Arc<Family>, text: String, must: bool) -> Option<Value> {
        let mut shard = self.shard(&text).lock();
        if let Some(ByText(entry)) = shard.get(text.as_str()) {
            return Some(entry.value.clone());
        }
        if family.series.fetch_add(1, Relaxed) >= MAX_SERIES && !must {
            family.series.fetch_sub(1, Relaxed);
            return None;
        }
        let value = Value::new(family.kind);
        let entry = Arc::new(Entry { text, family: Arc::clone(family), value: value.clone() });
        shard.insert(ByText(Arc::clone(&entry)));
        // Fails only if the exporter is gone, and then nobody asks.
        let _ = self.arrivals.send(entry);
        Some(value)
    }

    fn count_overflow(&self, family: &str) {
        let key = Key::from_parts(OVERFLOW, vec![::metrics::Label::new("family", family.to_owned())]);
        let family = self.family(OVERFLOW, Kind::Counter);
        if let Some(Value::Counter(count)) = self.look_up(&family, text::series(&key), true) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Drops a series in which nothing was counted beyond `seen`, unless somebody holds it and may count.
    fn forget(&self, entry: &Entry, seen: u64) -> bool {
        let mut shard = self.shard(&entry.text).lock();
        if entry.value.holders() > 0 {
            return false;
        }
        // Whoever held it has counted before letting go of it.
        fence(std::sync::atomic::Ordering::Acquire);
        if entry.value.progress() != seen {
            return false;
        }
        shard.remove(entry.text.as_str());
        entry.family.series.fetch_sub(1, Relaxed);
        true
    }

    fn shard(&self, text: &str) -> &Mutex<HashSet<ByText>> {
        let index = self.hasher.hash_one(text) % SHARDS as u64;
        &self.shards[usize::try_from(index).unwrap_or_default()]
    }
}

impl Value {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::default()),
            Kind::Gauge => Self::Gauge(Arc::default()),
            Kind::Histogram => Self::Histogram(Arc::default()),
        }
    }

    /// Handles besides the recorder's own.
    fn holders(&self) -> usize {
        let all = match self {
            Self::Counter(value) | Self::Gauge(value) => Arc::strong_count(value),
            Self::Histogram(value) => Arc::strong_count(value),
        };
        all - 1
    }

    /// Differs whenever something was recorded in between.
    fn progress(&self) -> u64 {
        match self {
            Self::Counter(value) | Self::Gauge(value) => value.load(Relaxed),
            Self::Histogram(value) => value.count(),
        }
    }
}

/// A name that is used for two kinds of metric records only the first.
impl ::metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.describe(name.as_str(), Kind::Counter, help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.describe(name.as_str(), Kind::Gauge, help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.describe(name.as_str(), Kind::Histogram, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.0.series(key, Kind::Counter) {
            Value::Counter(value) => Counter::from_arc(value),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.0.series(key, Kind::Gauge) {
            Value::Gauge(value) => Gauge::from_arc(value),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> ::metrics::Histogram {
        match self.0.series(key, Kind::Histogram) {
            Value::Histogram(value) => ::metrics::Histogram::from_arc(value),
            _ => ::metrics::Histogram::noop(),
        }
    }
}

impl Borrow<str> for ByText {
    fn borrow(&self) -> &str {
        &self.0.text
    }
}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.as_str().hash(state);
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for ByText {}
