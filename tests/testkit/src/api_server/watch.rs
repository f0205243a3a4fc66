//! Watches: what happens after a version, a line for each, until the time is over or the test ends it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{BoxStream, unfold},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::{
    answer::{Cut, Refusal},
    path::Target,
    selector::Selector,
    store::{Happened, Signals, Store},
};

pub(super) struct Wanted {
    /// From where; nothing and 0 mean: first all that is there.
    pub(super) version: u64,
    pub(super) bookmarks: bool,
    /// Ends what is there with a bookmark of its own.
    pub(super) initial_events: bool,
    pub(super) timeout: Duration,
}

struct Watch {
    store: Arc<Mutex<Store>>,
    signals: watch::Receiver<Signals>,
    seen: Signals,
    target: Target,
    selector: Selector,
    wanted: Wanted,
    version: u64,
    /// Has looked once.
    stands: bool,
    ready: VecDeque<Bytes>,
    deadline: Instant,
    over: bool,
}

pub(super) fn watch(
    store: &Arc<Mutex<Store>>,
    target: Target,
    selector: Selector,
    wanted: Wanted,
) -> BoxStream<'static, Result<Bytes, Cut>> {
    let mut locked = store.lock();
    locked.watches += 1;
    let signals = locked.signals();
    let seen = *signals.borrow();
    let deadline = Instant::now() + wanted.timeout;
    let mut watch = Watch {
        store: Arc::clone(store),
        signals,
        seen,
        target,
        selector,
        version: wanted.version,
        wanted,
        stands: false,
        ready: VecDeque::new(),
        deadline,
        over: false,
    };
    if watch.wanted.version == 0 {
        watch.begin(&locked);
    }
    drop(locked);
    unfold(watch, |mut watch| async move { watch.next().await.map(|line| (line, watch)) }).boxed()
}

impl Watch {
    /// All that is there, as if it came now.
    fn begin(&mut self, store: &Store) {
        self.version = store.version();
        let objects = store.objects(&self.target.collection).map(|(_, object)| object);
        self.ready =
            objects.filter(|object| self.takes(object)).map(|object| line("ADDED", object)).collect();
        if self.wanted.initial_events {
            self.ready.push_back(self.bookmark(&json!({ "k8s.io/initial-events-end": "true" })));
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            if self.over {
                return None;
            }
            self.look();
            if !self.ready.is_empty() || self.over {
                continue;
            }
            tokio::select! {
                changed = self.signals.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.deadline) => self.over = true,
            }
            let now = *self.signals.borrow();
            let before = std::mem::replace(&mut self.seen, now);
            if now.cut > before.cut {
                return Some(Err(Cut));
            }
            self.over |= now.ended > before.ended;
            if now.bookmarked > before.bookmarked && self.wanted.bookmarks {
                self.look();
                self.ready.push_back(self.bookmark(&json!({})));
            }
        }
    }

    /// Takes what has happened since it last looked.
    fn look(&mut self) {
        let store = self.store.lock();
        let (happened, version) =
            (store.since(&self.target.collection, self.version, self.stands), store.version());
        drop(store);
        self.stands = true;
        let Some(happened) = happened else {
            self.ready.push_back(line("ERROR", &Refusal::expired().object()));
            self.over = true;
            return;
        };
        let lines: Vec<Bytes> = happened.iter().filter_map(|happened| self.event(happened)).collect();
        self.ready.extend(lines);
        self.version = version;
    }

    /// Who leaves the selection is deleted for this watch, who enters it is new.
    fn event(&self, happened: &Happened) -> Option<Bytes> {
        let before = happened.before.as_ref().filter(|object| self.takes(object));
        let after = happened.after.as_ref().filter(|object| self.takes(object));
        match (before, after) {
            (None, Some(after)) => Some(line("ADDED", after)),
            (Some(_), Some(after)) => Some(line("MODIFIED", after)),
            (Some(before), None) => {
                let mut last = before.as_ref().clone();
                last["metadata"]["resourceVersion"] = json!(happened.version.to_string());
                Some(line("DELETED", &last))
            }
            (None, None) => None,
        }
    }

    fn takes(&self, object: &Value) -> bool {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        self.target.namespace.as_ref().is_none_or(|wanted| wanted == namespace) && self.selector.takes(object)
    }

    fn bookmark(&self, annotations: &Value) -> Bytes {
        let version = self.version.to_string();
        let metadata = json!({ "resourceVersion": version, "annotations": annotations });
        let api_version = &self.target.collection.api_version;
        line("BOOKMARK", &json!({ "kind": "Bookmark", "apiVersion": api_version, "metadata": metadata }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.store.lock().watches -= 1;
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}
