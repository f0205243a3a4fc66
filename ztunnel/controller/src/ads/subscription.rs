//! What a stream wants of one sort of resources, and what it has to be told next. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use proto::discovery::{self, DeltaDiscoveryRequest};

use crate::book::{Book, Entry, Kind, Resource};

/// Names that one stream may ask for on demand.
const MAX_NAMES: usize = 100_000;
const ALL: &str = "*";

#[derive(Debug, Default)]
pub(super) struct Subscription {
    wanted: Option<Wanted>,
    /// Of the book, up to which everything was told.
    seen: u64,
    /// The answer to the first request is due, even if it is empty: the daemon waits for it.
    first: bool,
    /// What it had when it came, with versions.
    had: HashMap<String, String>,
    /// Of the response that it has not answered.
    pub(super) unanswered: Option<String>,
}

#[derive(Debug)]
enum Wanted {
    All,
    /// On demand.
    Names {
        names: BTreeMap<Arc<str>, ()>,
        /// Not answered yet.
        asked: BTreeSet<Arc<str>>,
        /// Resources that were told of.
        told: BTreeSet<Arc<str>>,
    },
}

/// What to send.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) resources: Vec<discovery::Resource>,
    pub(super) removed: Vec<String>,
}

/// Why there can be no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hopeless {
    /// It asks for too many names.
    TooMuch,
    /// It is so far behind that what went meanwhile is forgotten. With what it has it may come back.
    TooFarBehind,
}

impl Subscription {
    /// Takes what a request says of what is wanted.
    pub(super) fn ask(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Hopeless> {
        let DeltaDiscoveryRequest {
            resource_names_subscribe: more, resource_names_unsubscribe: less, ..
        } = request;
        if self.wanted.is_none() {
            self.first = true;
            self.had = request.initial_resource_versions;
            let is_all = more.is_empty() && less.is_empty()
                || more.iter().any(|name| name == ALL) && !less.iter().any(|name| name == ALL);
            self.wanted = Some(if is_all {
                Wanted::All
            } else {
                Wanted::Names { names: BTreeMap::new(), asked: BTreeSet::new(), told: BTreeSet::new() }
            });
        }
        let Some(Wanted::Names { names, asked, .. }) = &mut self.wanted else { return Ok(()) };
        for name in more.into_iter().filter(|name| name != ALL) {
            let name: Arc<str> = name.into();
            names.insert(Arc::clone(&name), ());
            asked.insert(name);
        }
        for name in less {
            names.remove(name.as_str());
            asked.remove(name.as_str());
        }
        if names.len() > MAX_NAMES { Err(Hopeless::TooMuch) } else { Ok(()) }
    }

    /// Whether its next response has all there is.
    pub(super) fn begins(&self) -> bool {
        self.first && matches!(self.wanted, Some(Wanted::All))
    }

    /// What is due now, if anything is.
    pub(super) fn due(&mut self, kind: Kind, book: &Book) -> Result<Option<Due>, Hopeless> {
        if self.unanswered.is_some() || self.wanted.is_none() {
            return Ok(None);
        }
        let is_first = std::mem::take(&mut self.first);
        let had = std::mem::take(&mut self.had);
        let due = match &mut self.wanted {
            None => return Ok(None),
            Some(Wanted::All) => {
                let (entries, seen) = book.since(kind, self.seen).ok_or(Hopeless::TooFarBehind)?;
                self.seen = seen;
                differences(kind, &entries, &had)
            }
            Some(Wanted::Names { names, asked, told }) => {
                let start = if is_first { u64::MAX } else { self.seen };
                let (entries, seen) = since(book, kind, start).ok_or(Hopeless::TooFarBehind)?;
                self.seen = seen;
                let mut due = Due::default();
                for name in std::mem::take(asked) {
                    answer(kind, book, &name, told, &mut due);
                }
                follow(kind, &entries, names, told, &mut due);
                due
            }
        };
        let is_empty = due.resources.is_empty() && due.removed.is_empty();
        Ok((is_first || !is_empty).then_some(due))
    }
}

/// Nothing but the number, for who begins.
fn since(book: &Book, kind: Kind, number: u64) -> Option<(Vec<Entry>, u64)> {
    let start = number.min(*book.newest().borrow());
    book.since(kind, start)
        .map(|(entries, seen)| if number == u64::MAX { (Vec::new(), seen) } else { (entries, seen) })
}

/// Who comes with something is told what differs.
fn differences(kind: Kind, entries: &[Entry], had: &HashMap<String, String>) -> Due {
    let mut due = Due::default();
    let mut gone: BTreeSet<&str> = had.keys().map(String::as_str).collect();
    for entry in entries {
        match entry {
            Entry::Present(resource) => {
                gone.remove(&*resource.name);
                let is_known = had.get(&*resource.name).is_some_and(|version| *version == resource.version);
                if !is_known {
                    due.resources.push(resource.on_the_wire(kind));
                }
            }
            Entry::Removed(name) => due.removed.push(name.to_string()),
        }
    }
    due.removed.extend(gone.into_iter().map(str::to_owned));
    due
}

/// Of a name that was asked for. What is not there is told to be gone, so that nobody waits for it.
fn answer(kind: Kind, book: &Book, name: &Arc<str>, told: &mut BTreeSet<Arc<str>>, due: &mut Due) {
    let found = book.named(kind, name);
    if found.is_empty() {
        due.removed.push(name.to_string());
    }
    for resource in found {
        tell(kind, &resource, told, due);
    }
}

fn follow(
    kind: Kind,
    entries: &[Entry],
    names: &BTreeMap<Arc<str>, ()>,
    told: &mut BTreeSet<Arc<str>>,
    due: &mut Due,
) {
    for entry in entries {
        match entry {
            Entry::Present(resource) if resource.is_among(names) || told.contains(&resource.name) => {
                tell(kind, resource, told, due);
            }
            Entry::Removed(name) if told.remove(name) => due.removed.push(name.to_string()),
            Entry::Present(_) | Entry::Removed(_) => {}
        }
    }
}

fn tell(kind: Kind, resource: &Arc<Resource>, told: &mut BTreeSet<Arc<str>>, due: &mut Due) {
    told.insert(Arc::clone(&resource.name));
    let on_the_wire = resource.on_the_wire(kind);
    if !due.resources.iter().any(|told| told.name == on_the_wire.name) {
        due.resources.push(on_the_wire);
    }
}
