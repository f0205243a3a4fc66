//! A map of few entries, in one piece of memory of exactly its size: a mesh has a hundred thousand of them, mostly of
//! one entry or none.

use std::{borrow::Borrow, collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, Serializer};

/// Sorted by key. Changing it costs its size; it is made once and read often.
#[derive(Clone, PartialEq, Eq)]
pub struct SmallMap<K, V>(Box<[(K, V)]>);

impl<K: Ord, V> SmallMap<K, V> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self.0.binary_search_by(|(own, _)| own.borrow().cmp(key)).ok()?;
        self.0.get(place).map(|(_, value)| value)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Replaces what was there.
    pub fn insert(&mut self, key: K, value: V) {
        *self = std::mem::take(self).into_iter().chain([(key, value)]).collect();
    }

    pub fn remove(&mut self, key: &K) {
        *self = std::mem::take(self).into_iter().filter(|(own, _)| own != key).collect();
    }
}

impl<K, V> SmallMap<K, V> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

/// Of several with one key the last is taken.
impl<K: Ord, V> FromIterator<(K, V)> for SmallMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.reverse();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, kept| later.0 == kept.0);
        Self(entries.into())
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SmallMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K, V> IntoIterator for SmallMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SmallMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Serialize, V: Serialize> Serialize for SmallMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, K: Ord + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for SmallMap<K, V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from_iter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Would break if order, replacement or search were not those of a map.
        #[test]
        fn it_is_a_map(entries in proptest::collection::vec((0u8..16, any::<u8>()), 0..24), key in 0u8..16) {
            let mut reference: BTreeMap<u8, u8> = entries.iter().copied().collect();
            let mut map: SmallMap<u8, u8> = entries.into_iter().collect();
            prop_assert!(map.iter().eq(reference.iter()));
            prop_assert_eq!(map.get(&key), reference.get(&key));
            map.insert(key, 7);
            reference.insert(key, 7);
            prop_assert!(map.iter().eq(reference.iter()));
            map.remove(&key);
            reference.remove(&key);
            prop_assert!(map.iter().eq(reference.iter()));
        }
    }
}
