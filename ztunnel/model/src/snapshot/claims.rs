//! Who holds an address or a name that several services lay claim to.
//!
//! A client gets a service of its own namespace first, then one that is public; of these a canonical one first, then
//! the first by namespace and host name. Which came first plays no part, so every node gives the same answer.

use std::sync::Arc;

use imbl::OrdSet;

use crate::service::{Service, ServiceKey, Visibility};

/// Two orders of the same claims, so that the best of many is found by one search.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claims<A: Ord> {
    by_namespace: OrdSet<(A, Arc<str>, Rank, Arc<str>)>,
    public: OrdSet<(A, Rank, ServiceKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Canonical,
    Ordinary,
}

impl<A: Ord + Clone> Claims<A> {
    pub(super) fn insert(&mut self, address: A, service: &Service, key: &ServiceKey) {
        let rank = rank(service);
        if service.visibility == Visibility::Public {
            self.public.insert((address.clone(), rank, key.clone()));
        }
        self.by_namespace.insert((address, Arc::clone(&key.namespace), rank, Arc::clone(&key.hostname)));
    }

    pub(super) fn remove(&mut self, address: A, service: &Service, key: &ServiceKey) {
        let rank = rank(service);
        self.public.remove(&(address.clone(), rank, key.clone()));
        self.by_namespace.remove(&(address, Arc::clone(&key.namespace), rank, Arc::clone(&key.hostname)));
    }

    /// Whom `address` means to a client of `namespace`.
    pub(super) fn holder(&self, address: &A, namespace: &str) -> Option<ServiceKey> {
        self.of_namespace(address, namespace).or_else(|| self.of_public(address))
    }

    fn of_namespace(&self, address: &A, namespace: &str) -> Option<ServiceKey> {
        let least = (address.clone(), namespace.into(), Rank::Canonical, Arc::default());
        let (found, namespace, _, hostname) = self.by_namespace.get_next(&least)?;
        let is_it = found == address && **namespace == *least.1;
        is_it.then(|| ServiceKey { namespace: Arc::clone(namespace), hostname: Arc::clone(hostname) })
    }

    fn of_public(&self, address: &A) -> Option<ServiceKey> {
        let nobody = ServiceKey { namespace: Arc::default(), hostname: Arc::default() };
        let (found, _, key) = self.public.get_next(&(address.clone(), Rank::Canonical, nobody))?;
        (found == address).then(|| key.clone())
    }
}

fn rank(service: &Service) -> Rank {
    if service.canonical { Rank::Canonical } else { Rank::Ordinary }
}

impl<A: Ord> Default for Claims<A> {
    fn default() -> Self {
        Self { by_namespace: OrdSet::new(), public: OrdSet::new() }
    }
}
