//! Bounds what each of many may hold, such as the connections of one source.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct Shares<K> {
    each: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One of `key`'s, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    pub(crate) fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, taken: Mutex::default() })
    }

    /// `None`: this one has all that it may.
    pub(crate) fn take(self: &Arc<Self>, key: K) -> Option<Share<K>> {
        let mut taken = self.taken.lock();
        let count = taken.get(&key).copied().unwrap_or_default();
        if count >= self.each {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Share { shares: Arc::clone(self), key })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If one's share were everybody's, who takes too much would take it from the others; if shares were not given back, or
    /// their keys kept, all would be refused, or memory grow, in the end.
    #[test]
    fn each_has_its_own_share_and_leaves_no_trace() {
        let shares = Shares::new(2);
        let held: Vec<_> = (0..3).map(|_| shares.take("greedy")).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        assert!(shares.take("modest").is_some());
        drop(held);
        assert!(shares.take("greedy").is_some());
        assert!(shares.taken.lock().is_empty());
    }
}
