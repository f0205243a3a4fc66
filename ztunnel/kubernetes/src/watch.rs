//! A watch that goes on: lists page by page, resumes where it was, starts over when that is forgotten, and waits longer the
//! more often it fails.
//!
//! What it hands on is all that there is, once and after each new list, and then each change.

use std::{fmt::Debug, time::Duration};

use futures::{
    Stream, StreamExt,
    stream::{BoxStream, unfold},
};
use kube::{
    Api, Resource,
    core::Status,
    runtime::watcher::{self, Config, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

mod backoff;
mod trouble;

use backoff::Backoff;
pub use trouble::{Reason, Trouble};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// After so many seconds the server ends a watch, and it is resumed: a connection that died in silence is noticed.
const TIMEOUT: u32 = 100;

/// Which objects of a sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub labels: Option<String>,
    pub fields: Option<String>,
}

impl Selection {
    /// The pods scheduled on a node.
    pub fn of_node(node: &str) -> Self {
        Self { labels: None, fields: Some(format!("spec.nodeName={node}")) }
    }

    /// One object.
    pub fn named(name: &str) -> Self {
        Self { labels: None, fields: Some(format!("metadata.name={name}")) }
    }
}

/// What a watch tells.
#[derive(Debug)]
pub enum Change<T> {
    /// All that there is; what is not in it is gone.
    Complete(Vec<T>),
    Applied(T),
    Deleted(T),
    /// It has failed and goes on after a while. What was told before stays as it was.
    Failed(Trouble),
}

/// Watches forever. Of each object only what `keep` makes of it is held, so that a long list needs no room for what nobody
/// reads.
pub fn watch<K, T>(
    api: Api<K>,
    selection: Selection,
    keep: impl Fn(K) -> T + Send + 'static,
) -> impl Stream<Item = Change<T>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send + 'static,
{
    let watching = Watching {
        events: begin(&api, &selection),
        api,
        selection,
        keep,
        listed: Vec::new(),
        backoff: Backoff::default(),
        not_before: None,
    };
    unfold(watching, |mut watching| async move { Some((watching.next().await, watching)) })
}

type Events<K> = BoxStream<'static, Result<Event<K>, watcher::Error>>;

fn begin<K>(api: &Api<K>, selection: &Selection) -> Events<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut config = Config::default().page_size(PAGE).timeout(TIMEOUT);
    config.label_selector.clone_from(&selection.labels);
    config.field_selector.clone_from(&selection.fields);
    watcher(api.clone(), config).boxed()
}

struct Watching<K, T, F> {
    api: Api<K>,
    selection: Selection,
    keep: F,
    events: Events<K>,
    /// Of a list whose end has not come yet.
    listed: Vec<T>,
    backoff: Backoff,
    /// After a failure.
    not_before: Option<Instant>,
}

impl<K, T, F> Watching<K, T, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Fn(K) -> T,
{
    async fn next(&mut self) -> Change<T> {
        if let Some(not_before) = self.not_before.take() {
            sleep_until(not_before).await;
        }
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    if let Some(change) = self.take(event) {
                        self.backoff.succeeded();
                        return change;
                    }
                }
                Some(Err(error)) => return self.failed(&error),
                None => self.events = begin(&self.api, &self.selection),
            }
        }
    }

    fn take(&mut self, event: Event<K>) -> Option<Change<T>> {
        match event {
            Event::Init => self.listed = Vec::new(),
            Event::InitApply(object) => self.listed.push((self.keep)(object)),
            Event::InitDone => return Some(Change::Complete(std::mem::take(&mut self.listed))),
            Event::Apply(object) => return Some(Change::Applied((self.keep)(object))),
            Event::Delete(object) => return Some(Change::Deleted((self.keep)(object))),
        }
        None
    }

    fn failed(&mut self, error: &watcher::Error) -> Change<T> {
        let trouble = Trouble::of(error);
        let path = self.api.resource_url();
        if trouble.reason == Reason::Expired {
            // The watcher itself starts over only if it is told so within a stream.
            self.events = begin(&self.api, &self.selection);
            debug!(path, "the watch is too old to resume: listing again");
        } else {
            warn!(path, reason = trouble.reason.name(), "watch failed: {trouble}");
        }
        let wait = self.backoff.failed(Instant::now()).max(trouble.asked_to_wait);
        self.not_before = Some(Instant::now() + wait);
        Change::Failed(trouble)
    }
}

/// The server's own word on when to come back, within reason.
fn asked_to_wait(status: &Status) -> Duration {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(u64::from(seconds).min(60))
}

#[cfg(test)]
mod tests;
