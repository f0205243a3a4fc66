//! What a stream wants of one sort of resources, and what it has to be told next. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use proto::discovery::{self, DeltaDiscoveryRequest};

use crate::book::{Book, Entry, Kind, Resource};

/// Names that one stream may ask for on demand.
const MAX_NAMES: usize = 100_000;
/// Cluster, namespace and name, and something between.
const MAX_NAME: usize = 1_024;
/// So many resources are sent without regard to others.
const FEW: usize = 1_000;
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
        /// Something was given up: not all that was told is still asked for.
        fewer: bool,
    },
}

/// What to send.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) resources: Vec<discovery::Resource>,
    pub(super) removed: Vec<String>,
}

/// A response on demand, and what is in it.
#[derive(Default)]
struct Telling {
    due: Due,
    names: HashSet<Arc<str>>,
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
                let (names, asked, told) = Default::default();
                Wanted::Names { names, asked, told, fewer: false }
            });
        }
        let Some(Wanted::Names { names, asked, fewer, .. }) = &mut self.wanted else { return Ok(()) };
        for name in more.into_iter().filter(|name| name != ALL) {
            if name.len() > MAX_NAME {
                return Err(Hopeless::TooMuch);
            }
            let name: Arc<str> = name.into();
            names.insert(Arc::clone(&name), ());
            asked.insert(name);
        }
        for name in less {
            *fewer |= names.remove(name.as_str()).is_some();
            asked.remove(name.as_str());
        }
        if names.len() > MAX_NAMES { Err(Hopeless::TooMuch) } else { Ok(()) }
    }

    /// Whether its next response may be as large as all there is: others have their turn. One who comes back with what it had
    /// is told what differs, which is little.
    pub(super) fn is_large(&self, kind: Kind, book: &Book) -> bool {
        if !self.first || !matches!(self.wanted, Some(Wanted::All)) {
            return false;
        }
        let Some((entries, _)) = book.since(kind, self.seen) else { return false };
        entries.iter().filter(|entry| differs(entry, &self.had)).count() > FEW
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
            Some(Wanted::Names { names, asked, told, fewer }) => {
                let start = if is_first { u64::MAX } else { self.seen };
                let (entries, seen) = since(book, kind, start).ok_or(Hopeless::TooFarBehind)?;
                self.seen = seen;
                if std::mem::take(fewer) {
                    forget(kind, book, names, told);
                }
                let mut telling = Telling::default();
                for name in std::mem::take(asked) {
                    telling.answer(kind, book, &name, told);
                }
                telling.follow(kind, &entries, names, told);
                telling.due
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

fn differs(entry: &Entry, had: &HashMap<String, String>) -> bool {
    match entry {
        Entry::Present(resource) => had.get(&*resource.name) != Some(&resource.version),
        Entry::Removed(_) => false,
    }
}

/// Who comes with something is told what differs.
fn differences(kind: Kind, entries: &[Entry], had: &HashMap<String, String>) -> Due {
    let mut due = Due::default();
    let mut gone: BTreeSet<&str> = had.keys().map(String::as_str).collect();
    for entry in entries {
        match entry {
            Entry::Present(resource) => {
                gone.remove(&*resource.name);
                if differs(entry, had) {
                    due.resources.push(resource.on_the_wire(kind));
                }
            }
            Entry::Removed(name) => due.removed.push(name.to_string()),
        }
    }
    due.removed.extend(gone.into_iter().map(str::to_owned));
    due
}

/// Keeps of what was told only what some name still asks for.
fn forget(kind: Kind, book: &Book, names: &BTreeMap<Arc<str>, ()>, told: &mut BTreeSet<Arc<str>>) {
    let asked: HashSet<Arc<str>> = names
        .keys()
        .flat_map(|name| book.named(kind, name))
        .map(|resource| Arc::clone(&resource.name))
        .collect();
    told.retain(|name| asked.contains(name));
}

impl Telling {
    /// Of a name that was asked for. What is not there is told to be gone, so that nobody waits for it.
    fn answer(&mut self, kind: Kind, book: &Book, name: &Arc<str>, told: &mut BTreeSet<Arc<str>>) {
        let found = book.named(kind, name);
        if found.is_empty() {
            self.due.removed.push(name.to_string());
        }
        for resource in found {
            self.tell(kind, &resource, told);
        }
    }

    /// Of what was asked for before: itself, and who has become a member of a service that was told.
    fn follow(
        &mut self,
        kind: Kind,
        entries: &[Entry],
        names: &BTreeMap<Arc<str>, ()>,
        told: &mut BTreeSet<Arc<str>>,
    ) {
        let concerns = |resource: &Resource, told: &BTreeSet<Arc<str>>| {
            resource.is_among(names)
                || told.contains(&resource.name)
                || resource.related.iter().any(|service| told.contains(service))
        };
        for entry in entries {
            match entry {
                Entry::Present(resource) if concerns(resource, told) => self.tell(kind, resource, told),
                Entry::Removed(name) if told.remove(name) => self.due.removed.push(name.to_string()),
                Entry::Present(_) | Entry::Removed(_) => {}
            }
        }
    }

    fn tell(&mut self, kind: Kind, resource: &Arc<Resource>, told: &mut BTreeSet<Arc<str>>) {
        told.insert(Arc::clone(&resource.name));
        if self.names.insert(Arc::clone(&resource.name)) {
            self.due.resources.push(resource.on_the_wire(kind));
        }
    }
}
