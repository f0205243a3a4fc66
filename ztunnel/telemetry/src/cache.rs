//! Handles by what they count, so that labels are formatted once and not for each connection.
//!
//! What was not used between two sweeps is let go of: the recorder drops a series only when nobody holds it. Letting go
//! loses nothing, as the recorder gives the same series to who asks again.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use parking_lot::RwLock;

/// Beyond this many the cache starts anew.
const MAX_CACHED: usize = 4096;

#[derive(Debug)]
pub(crate) struct Cache<K, V>(RwLock<HashMap<K, Cached<V>>>);

#[derive(Debug)]
struct Cached<V> {
    value: V,
    used: AtomicBool,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub(crate) fn get_or(&self, key: K, make: impl FnOnce() -> V) -> V {
        if let Some(cached) = self.0.read().get(&key) {
            // Mostly set already: then no other thread's copy of it is touched.
            if !cached.used.load(Relaxed) {
                cached.used.store(true, Relaxed);
            }
            return cached.value.clone();
        }
        let value = make();
        let mut cache = self.0.write();
        let full = if cache.len() >= MAX_CACHED { std::mem::take(&mut *cache) } else { HashMap::new() };
        let cached = cache.entry(key).or_insert(Cached { value, used: AtomicBool::new(true) });
        let value = cached.value.clone();
        drop(cache);
        // Not under the lock.
        drop(full);
        value
    }

    pub(crate) fn sweep(&self) {
        let mut cache = self.0.write();
        let unused: Vec<_> = cache.extract_if(|_, cached| !cached.used.swap(false, Relaxed)).collect();
        drop(cache);
        // Not under the lock.
        drop(unused);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.read().len()
    }
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}
