//! Lines that are served in turn, one from each.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    task::Waker,
};

/// Those who wait, in some order.
pub(super) trait Line: Default {
    fn next(&mut self) -> Option<Waker>;
    fn is_empty(&self) -> bool;
}

/// A line for each key. A line that has emptied is forgotten when its turn comes.
#[derive(Debug)]
pub(super) struct Rounds<K, L> {
    /// Every key that has a line, once.
    order: VecDeque<K>,
    lines: HashMap<K, L>,
}

impl<K: Clone + Eq + Hash, L: Line> Rounds<K, L> {
    pub(super) fn line(&mut self, key: &K) -> &mut L {
        if !self.lines.contains_key(key) {
            self.order.push_back(key.clone());
        }
        self.lines.entry(key.clone()).or_default()
    }

    pub(super) fn existing(&mut self, key: &K) -> Option<&mut L> {
        self.lines.get_mut(key)
    }
}

impl<K: Clone + Eq + Hash, L: Line> Line for Rounds<K, L> {
    fn next(&mut self) -> Option<Waker> {
        while let Some(key) = self.order.pop_front() {
            let Some(line) = self.lines.get_mut(&key) else { continue };
            let next = line.next();
            if line.is_empty() {
                self.lines.remove(&key);
            } else {
                self.order.push_back(key);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl<K, L> Default for Rounds<K, L> {
    fn default() -> Self {
        Self { order: VecDeque::new(), lines: HashMap::new() }
    }
}
