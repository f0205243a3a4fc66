//! The resources that are served, in the order in which they changed.
//!
//! Each stands once, at the number of its last change; what was removed leaves its name there. A stream that has seen
//! everything up to a number asks what stands after it: that is what has changed since, each thing once, however far behind
//! the stream is. So a change costs what it changed, and nothing is kept for those who are slow.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::sync::watch;

mod later;
mod resource;

pub(crate) use later::Later;
pub(crate) use resource::Resource;

/// Names of what is gone that are kept; a stream that is further behind begins anew.
const GRAVES: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Address,
    Authorization,
}

impl Kind {
    /// Policies go out before the workloads that name them.
    pub(crate) const ALL: [Self; 2] = [Self::Authorization, Self::Address];

    pub(crate) fn type_url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS_TYPE,
            Self::Authorization => AUTHORIZATION_TYPE,
        }
    }

    pub(crate) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

/// What stands at the number of a change.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Present(Arc<Resource>),
    Removed(Arc<str>),
}

/// What changes at once.
#[derive(Debug, Default)]
pub(crate) struct Update {
    pub(crate) present: Vec<(Kind, Resource)>,
    pub(crate) removed: Vec<(Kind, String)>,
}

/// Shared by the one who writes and all streams.
#[derive(Default)]
pub(crate) struct Book {
    shelves: RwLock<Shelves>,
    /// The number of the newest change; 0 until everything is known.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Shelves {
    number: u64,
    address: Shelf,
    authorization: Shelf,
}

#[derive(Default)]
struct Shelf {
    /// The number of its last change, by name.
    places: HashMap<Arc<str>, u64>,
    changes: BTreeMap<u64, Entry>,
    graves: BTreeSet<u64>,
    /// Graves up to here are forgotten.
    forgotten: u64,
    /// Resources by their other names, and workloads by the names of their services.
    relations: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Book {
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        let shelves = self.shelves.read();
        let shelf = shelves.shelf(kind);
        shelf.places.len() - shelf.graves.len()
    }

    /// Yields how many resources really changed. What is equal to what stands there is no change.
    pub(crate) fn publish(&self, update: Update) -> usize {
        let mut shelves = self.shelves.write();
        let mut changed = 0;
        for (kind, resource) in update.present {
            changed += usize::from(shelves.put(kind, resource));
        }
        for (kind, name) in update.removed {
            changed += usize::from(shelves.remove(kind, &name));
        }
        let first = *self.newest.borrow() == 0;
        if first {
            shelves.number += 1;
        }
        let number = shelves.number;
        drop(shelves);
        if changed > 0 || first {
            self.newest.send_replace(number);
        }
        changed
    }

    /// What changed after a number, and up to which number that is; `None` if too much of it is forgotten.
    pub(crate) fn since(&self, kind: Kind, number: u64) -> Option<(Vec<Entry>, u64)> {
        let shelves = self.shelves.read();
        let shelf = shelves.shelf(kind);
        if number < shelf.forgotten && number != 0 {
            return None;
        }
        let entries = shelf.changes.range(number + 1..).map(|(_, entry)| entry.clone());
        // Who begins knows of nothing that could be gone.
        let entries = entries.filter(|entry| number != 0 || matches!(entry, Entry::Present(_)));
        Some((entries.collect(), shelves.number))
    }

    /// What goes by this name: the resource of it, those with it as another name, and a service's workloads.
    pub(crate) fn named(&self, kind: Kind, name: &str) -> Vec<Arc<Resource>> {
        let shelves = self.shelves.read();
        let shelf = shelves.shelf(kind);
        let mut found: Vec<Arc<Resource>> = shelf.resource(name).into_iter().collect();
        let related = shelf.relations.get(name).into_iter().flatten();
        for resource in related.filter_map(|name| shelf.resource(name)) {
            // By a service's address come its workloads too.
            let members = if resource.is_service { shelf.relations.get(&resource.name) } else { None };
            found.extend(members.into_iter().flatten().filter_map(|name| shelf.resource(name)));
            found.push(resource);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        found
    }
}

impl Shelves {
    fn shelf(&self, kind: Kind) -> &Shelf {
        match kind {
            Kind::Address => &self.address,
            Kind::Authorization => &self.authorization,
        }
    }

    fn shelf_mut(&mut self, kind: Kind) -> &mut Shelf {
        match kind {
            Kind::Address => &mut self.address,
            Kind::Authorization => &mut self.authorization,
        }
    }

    fn put(&mut self, kind: Kind, resource: Resource) -> bool {
        let number = self.number + 1;
        let shelf = self.shelf_mut(kind);
        let before = shelf.resource(&resource.name);
        if before.as_ref().is_some_and(|before| before.value == resource.value) {
            return false;
        }
        if let Some(before) = before {
            shelf.unrelate(&before);
        }
        let resource = Arc::new(resource);
        for related in &resource.related {
            shelf.relations.entry(Arc::clone(related)).or_default().insert(Arc::clone(&resource.name));
        }
        shelf.place(number, Arc::clone(&resource.name), Entry::Present(resource));
        self.number = number;
        true
    }

    fn remove(&mut self, kind: Kind, name: &str) -> bool {
        let number = self.number + 1;
        let shelf = self.shelf_mut(kind);
        let Some(before) = shelf.resource(name) else { return false };
        shelf.unrelate(&before);
        let name = Arc::clone(&before.name);
        shelf.place(number, Arc::clone(&name), Entry::Removed(name));
        shelf.graves.insert(number);
        shelf.forget();
        self.number = number;
        true
    }
}

impl Shelf {
    fn resource(&self, name: &str) -> Option<Arc<Resource>> {
        match self.changes.get(self.places.get(name)?)? {
            Entry::Present(resource) => Some(Arc::clone(resource)),
            Entry::Removed(_) => None,
        }
    }

    fn place(&mut self, number: u64, name: Arc<str>, entry: Entry) {
        if let Some(before) = self.places.insert(name, number) {
            self.changes.remove(&before);
            self.graves.remove(&before);
        }
        self.changes.insert(number, entry);
    }

    fn unrelate(&mut self, resource: &Resource) {
        for related in &resource.related {
            if let Some(names) = self.relations.get_mut(related) {
                names.remove(&resource.name);
                if names.is_empty() {
                    self.relations.remove(related);
                }
            }
        }
    }

    fn forget(&mut self) {
        if self.graves.len() > GRAVES
            && let Some(oldest) = self.graves.pop_first()
        {
            if let Some(Entry::Removed(name)) = self.changes.remove(&oldest) {
                self.places.remove(&name);
            }
            self.forgotten = oldest;
        }
    }
}

#[cfg(test)]
mod tests;
