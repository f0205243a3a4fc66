//! What the server holds, what has happened to it, and who is to be told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Asked, fault::Faults, path::Collection, review::Reviewed};

/// Events remembered; who resumes from before them has to list again.
const HISTORY: usize = 100_000;

/// By namespace and name.
pub(super) type Objects = BTreeMap<(String, String), Arc<Value>>;

/// Something to look at: a newer version, or an order of the test.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signals {
    pub(super) version: u64,
    pub(super) cut: u64,
    pub(super) ended: u64,
    pub(super) bookmarked: u64,
}

#[derive(Clone)]
pub(super) struct Happened {
    pub(super) version: u64,
    pub(super) collection: Collection,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

pub(super) struct Store {
    objects: BTreeMap<Collection, Objects>,
    version: u64,
    /// Nobody resumes from before this version.
    pub(super) compacted: u64,
    /// What happened up to this version is not remembered.
    forgotten: u64,
    history: VecDeque<Happened>,
    signals: watch::Sender<Signals>,
    pub(super) tokens: HashMap<String, Reviewed>,
    /// Plurals of what nobody may do.
    pub(super) forbidden: Vec<String>,
    pub(super) faults: Faults,
    pub(super) asked: Vec<Asked>,
    pub(super) watches: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 1,
            compacted: 0,
            forgotten: 0,
            history: VecDeque::new(),
            signals: watch::Sender::new(Signals::default()),
            tokens: HashMap::new(),
            forbidden: Vec::new(),
            faults: Faults::default(),
            asked: Vec::new(),
            watches: 0,
        }
    }
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn signals(&self) -> watch::Receiver<Signals> {
        self.signals.subscribe()
    }

    pub(super) fn signal(&self, change: impl FnOnce(&mut Signals)) {
        self.signals.send_modify(change);
    }

    pub(super) fn objects(
        &self,
        collection: &Collection,
    ) -> impl Iterator<Item = (&(String, String), &Arc<Value>)> {
        self.objects.get(collection).into_iter().flatten()
    }

    pub(super) fn get(&self, collection: &Collection, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(collection)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// In place of what has its name. The server's own part of the metadata is filled in.
    pub(super) fn put(&mut self, collection: &Collection, mut object: Value) -> Arc<Value> {
        let key = key(&object);
        let before = self.objects.get(collection).and_then(|objects| objects.get(&key)).cloned();
        self.version += 1;
        let version = self.version;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(version.to_string());
        match &before {
            Some(before) => {
                metadata["uid"] = before["metadata"]["uid"].clone();
                metadata["creationTimestamp"] = before["metadata"]["creationTimestamp"].clone();
                let generation = before["metadata"]["generation"].as_u64().unwrap_or(1);
                let changed = substance(before) != substance(&object);
                object["metadata"]["generation"] = json!(generation + u64::from(changed));
            }
            None => {
                if metadata["uid"].is_null() {
                    metadata["uid"] = json!(format!("00000000-0000-4000-8000-{version:012}"));
                }
                if metadata["creationTimestamp"].is_null() {
                    metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
                }
                metadata["generation"] = json!(1);
            }
        }
        let object = Arc::new(object);
        self.objects.entry(collection.clone()).or_default().insert(key, Arc::clone(&object));
        self.happened(collection, before, Some(Arc::clone(&object)));
        object
    }

    pub(super) fn delete(
        &mut self,
        collection: &Collection,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Value>> {
        let before = self.objects.get_mut(collection)?.remove(&(namespace.to_owned(), name.to_owned()))?;
        self.version += 1;
        self.happened(collection, Some(Arc::clone(&before)), None);
        Some(before)
    }

    fn happened(&mut self, collection: &Collection, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        let version = self.version;
        self.history.push_back(Happened { version, collection: collection.clone(), before, after });
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted = oldest.version;
            self.forgotten = oldest.version;
        }
        self.signal(|signals| signals.version = version);
    }

    pub(super) fn compact(&mut self) {
        // A version of its own, so that who has seen all so far cannot resume either. What watches that stand have still to
        // see is kept.
        self.version += 1;
        self.compacted = self.version;
    }

    /// What happened to a collection after a version; `None` if that is no longer known. A watch that stands has only to
    /// have missed nothing.
    pub(super) fn since(&self, collection: &Collection, version: u64, stands: bool) -> Option<Vec<Happened>> {
        if version < if stands { self.forgotten } else { self.compacted } {
            return None;
        }
        let first = self.history.partition_point(|happened| happened.version <= version);
        let newer = self.history.range(first..).filter(|happened| &happened.collection == collection);
        Some(newer.cloned().collect())
    }
}

fn key(object: &Value) -> (String, String) {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (part("namespace"), part("name"))
}

/// What counts for the generation.
fn substance(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("metadata");
        fields.remove("status");
    }
    object
}
