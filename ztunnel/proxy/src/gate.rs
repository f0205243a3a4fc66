//! Bounds how many inbound handshakes are under way before their peer has proven anything.
//!
//! When the bound is reached, the oldest is cut of whoever has the most inside: of a pod by the source's address, of the
//! daemon by the pod. An honest handshake is over in milliseconds, so the oldest of many is the one that stalls; cutting
//! the newest would let whoever stalls lock out everybody else.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct Gate<K> {
    limit: usize,
    inside: Mutex<Inside<K>>,
}

#[derive(Debug)]
struct Inside<K> {
    next: u64,
    count: usize,
    by_age: HashMap<K, BTreeMap<u64, CancellationToken>>,
}

impl<K: Clone + Eq + Hash> Gate<K> {
    /// At least one may always be inside.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let inside = Inside { next: 0, count: 0, by_age: HashMap::new() };
        Arc::new(Self { limit: limit.max(1), inside: Mutex::new(inside) })
    }

    /// Never waits. `evicted` is fired when this entrance has to make room.
    pub(crate) fn enter(self: &Arc<Self>, key: K, evicted: &CancellationToken) -> Entrance<K> {
        let mut inside = self.inside.lock();
        if inside.count >= self.limit
            && let Some(oldest) = inside.evict()
        {
            oldest.cancel();
        }
        let ticket = inside.next;
        inside.next += 1;
        inside.count += 1;
        inside.by_age.entry(key.clone()).or_default().insert(ticket, evicted.clone());
        Entrance { gate: Arc::clone(self), key, ticket }
    }

    /// How many are inside, and how many may be.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        (self.inside.lock().count, self.limit)
    }
}

impl<K: Clone + Eq + Hash> Inside<K> {
    fn evict(&mut self) -> Option<CancellationToken> {
        let key = self.by_age.iter().max_by_key(|(_, tokens)| tokens.len())?.0.clone();
        let (&oldest, _) = self.by_age.get(&key)?.first_key_value()?;
        self.remove(&key, oldest)
    }

    fn remove(&mut self, key: &K, ticket: u64) -> Option<CancellationToken> {
        let tokens = self.by_age.get_mut(key)?;
        let removed = tokens.remove(&ticket)?;
        if tokens.is_empty() {
            self.by_age.remove(key);
        }
        self.count -= 1;
        Some(removed)
    }
}

/// A place inside, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Entrance<K: Clone + Eq + Hash> {
    gate: Arc<Gate<K>>,
    key: K,
    ticket: u64,
}

impl<K: Clone + Eq + Hash> Drop for Entrance<K> {
    fn drop(&mut self) {
        self.gate.inside.lock().remove(&self.key, self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(count: usize) -> Vec<CancellationToken> {
        (0..count).map(|_| CancellationToken::new()).collect()
    }

    fn cancelled(tokens: &[CancellationToken]) -> Vec<bool> {
        tokens.iter().map(CancellationToken::is_cancelled).collect()
    }

    /// If a newcomer were turned away instead, stalled handshakes would lock everybody out.
    #[test]
    fn a_full_gate_cuts_its_oldest_and_admits_the_newcomer() {
        let gate = Gate::new(2);
        let tokens = tokens(3);
        let _inside: Vec<_> = tokens.iter().map(|token| gate.enter("one", token)).collect();
        assert_eq!(cancelled(&tokens), [true, false, false]);
        assert_eq!(gate.in_use(), (2, 2));
    }

    /// If the oldest of all were cut, whoever comes in great numbers would push out those who come seldom.
    #[test]
    fn who_has_the_most_inside_makes_room() {
        let gate = Gate::new(3);
        let tokens = tokens(5);
        let _quiet = gate.enter("quiet", &tokens[0]);
        let _storm: Vec<_> = tokens[1..].iter().map(|token| gate.enter("storm", token)).collect();
        assert_eq!(cancelled(&tokens), [false, true, true, false, false]);
    }

    /// If places were not given back, the gate would cut honest handshakes after a while.
    #[test]
    fn leaving_makes_room() {
        let gate = Gate::new(2);
        let tokens = tokens(3);
        let first = gate.enter("one", &tokens[0]);
        let _second = gate.enter("one", &tokens[1]);
        drop(first);
        let _third = gate.enter("one", &tokens[2]);
        assert_eq!(cancelled(&tokens), [false, false, false]);
    }
}
