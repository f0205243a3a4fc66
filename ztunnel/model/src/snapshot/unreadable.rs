//! Addresses of which something was said that cannot be read. Nobody there is known, but whoever it is may want mutual
//! TLS: they are not an outsider's, who would get plaintext.

use std::sync::Arc;

use imbl::{HashMap, OrdSet};

use crate::NetworkAddress;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Unreadable {
    by_name: HashMap<Arc<str>, Arc<[NetworkAddress]>>,
    /// With the name of what cannot be read; several may claim one address.
    by_address: OrdSet<(NetworkAddress, Arc<str>)>,
}

impl Unreadable {
    /// In the place of what `name` had before. Whether anything is different now.
    pub(super) fn insert(&mut self, name: &str, addresses: &[NetworkAddress]) -> bool {
        if self.by_name.get(name).is_some_and(|held| **held == *addresses) {
            return false;
        }
        let was_there = self.remove(name);
        if addresses.is_empty() {
            return was_there;
        }
        let name: Arc<str> = name.into();
        self.by_address.extend(addresses.iter().map(|address| (address.clone(), Arc::clone(&name))));
        self.by_name.insert(name, addresses.into());
        true
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some((name, addresses)) = self.by_name.remove_with_key(name) else { return false };
        for address in addresses.iter() {
            self.by_address.remove(&(address.clone(), Arc::clone(&name)));
        }
        true
    }

    /// What claims the address, the first by name.
    pub(super) fn at(&self, address: &NetworkAddress) -> Option<&Arc<str>> {
        let (found, name) = self.by_address.get_next(&(address.clone(), Arc::default()))?;
        (found == address).then_some(name)
    }

    pub(super) fn of(&self, name: &str) -> &[NetworkAddress] {
        self.by_name.get(name).map_or(&[], |addresses| addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> Vec<NetworkAddress> {
        all.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// Would break if one that is mended opened what another still claims, or an address that is no longer claimed stayed.
    #[test]
    fn an_address_is_closed_as_long_as_somebody_claims_it() {
        let mut unreadable = Unreadable::default();
        let [one, two] = ["/10.0.0.1", "n/10.0.0.1"].map(|address| address.parse().unwrap());
        assert!(unreadable.insert("a", &addresses(&["/10.0.0.1", "n/10.0.0.1"])));
        assert!(!unreadable.insert("a", &addresses(&["/10.0.0.1", "n/10.0.0.1"])), "the same again");
        assert!(unreadable.insert("b", &addresses(&["/10.0.0.1"])));
        assert_eq!(unreadable.at(&one).map(|name| &**name), Some("a"));
        assert!(unreadable.insert("a", &addresses(&["/10.0.0.2"])));
        assert_eq!((unreadable.at(&one).map(|name| &**name), unreadable.at(&two)), (Some("b"), None));
        assert!(unreadable.remove("b") && !unreadable.remove("b"));
        assert_eq!(unreadable.at(&one), None);
        assert!(unreadable.insert("a", &[]) && !unreadable.insert("a", &[]));
        assert_eq!(unreadable, Unreadable::default());
    }
}
