//! The mesh as known at one moment. Readers hold an immutable snapshot; a change makes a new one that
//! shares all it did not touch, so it costs the change, not the mesh.

use std::{borrow::Borrow, hash::Hash, sync::Arc};

use arc_swap::ArcSwap;
use imbl::{HashMap, OrdMap};
use smallvec::SmallVec;

use crate::{
    NetworkAddress, Workload, WorkloadUid,
    policy::{Policy, PolicyKey, Scope, compiled::Compiled, index::PolicySet},
    service::{Service, ServiceKey},
    workload::NetworkMode,
};

#[cfg(test)]
mod tests;

/// Cloning is cheap: the maps are persistent and share their nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    workloads: OrdMap<WorkloadUid, Arc<Workload>>,
    by_address: HashMap<NetworkAddress, Claims<WorkloadUid>>,
    services: OrdMap<ServiceKey, Arc<Service>>,
    by_vip: HashMap<NetworkAddress, Claims<ServiceKey>>,
    by_hostname: HashMap<Arc<str>, Claims<ServiceKey>>,
    endpoints: HashMap<ServiceKey, OrdMap<WorkloadUid, Arc<Workload>>>,
    policies: OrdMap<PolicyKey, Arc<Compiled>>,
    global_policies: PolicySet,
    namespace_policies: HashMap<Arc<str>, PolicySet>,
}

impl Snapshot {
    /// Adds the workload, or replaces the one of the same uid.
    pub fn insert_workload(&mut self, workload: Workload) {
        self.remove_workload(&workload.uid);
        let workload = Arc::new(workload);
        for address in owned_addresses(&workload) {
            claim(&mut self.by_address, address, workload.uid.clone());
        }
        for service in workload.services.keys() {
            self.endpoints
                .entry(service.clone())
                .or_default()
                .insert(workload.uid.clone(), Arc::clone(&workload));
        }
        self.workloads.insert(workload.uid.clone(), workload);
    }

    pub fn remove_workload(&mut self, uid: &WorkloadUid) {
        let Some(old) = self.workloads.remove(uid) else { return };
        for address in owned_addresses(&old) {
            release(&mut self.by_address, &address, uid);
        }
        for service in old.services.keys() {
            if let Some(endpoints) = self.endpoints.get_mut(service) {
                endpoints.remove(uid);
                if endpoints.is_empty() {
                    self.endpoints.remove(service);
                }
            }
        }
    }

    pub fn insert_service(&mut self, service: Service) {
        let key = service.key();
        self.remove_service(&key);
        for vip in &service.vips {
            claim(&mut self.by_vip, vip.clone(), key.clone());
        }
        claim(&mut self.by_hostname, Arc::clone(&key.hostname), key.clone());
        self.services.insert(key, Arc::new(service));
    }

    pub fn remove_service(&mut self, key: &ServiceKey) {
        let Some(old) = self.services.remove(key) else { return };
        for vip in &old.vips {
            release(&mut self.by_vip, vip, key);
        }
        release(&mut self.by_hostname, &key.hostname, key);
    }

    pub fn insert_policy(&mut self, policy: Policy) {
        let policy = Arc::new(Compiled::new(policy));
        self.remove_policy(&policy.key);
        match policy.policy.scope {
            Scope::Global => self.global_policies.insert(&policy),
            Scope::Namespace => {
                let namespace = Arc::clone(&policy.key.namespace);
                self.namespace_policies.entry(namespace).or_default().insert(&policy);
            }
            Scope::WorkloadSelector => {}
        }
        self.policies.insert(policy.key.clone(), policy);
    }

    pub fn remove_policy(&mut self, key: &PolicyKey) {
        let Some(old) = self.policies.remove(key) else { return };
        match old.policy.scope {
            Scope::Global => self.global_policies.remove(&old),
            Scope::Namespace => {
                if let Some(policies) = self.namespace_policies.get_mut(&key.namespace) {
                    policies.remove(&old);
                    if policies.is_empty() {
                        self.namespace_policies.remove(&key.namespace);
                    }
                }
            }
            Scope::WorkloadSelector => {}
        }
    }

    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        holder(&self.by_address, address).and_then(|uid| self.workloads.get(uid))
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    pub fn service_at(&self, vip: &NetworkAddress) -> Option<&Arc<Service>> {
        holder(&self.by_vip, vip).and_then(|key| self.services.get(key))
    }

    pub fn service_named(&self, hostname: &str) -> Option<&Arc<Service>> {
        holder(&self.by_hostname, hostname).and_then(|key| self.services.get(key))
    }

    pub fn endpoints(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints.get(service).into_iter().flat_map(OrdMap::values)
    }

    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.compiled(key).map(|compiled| &compiled.policy)
    }

    pub(crate) fn compiled(&self, key: &PolicyKey) -> Option<&Arc<Compiled>> {
        self.policies.get(key)
    }

    /// The policies that hold for every workload of `namespace`: the mesh's and the namespace's own.
    pub(crate) fn policies_for(&self, namespace: &str) -> impl Iterator<Item = &PolicySet> + Clone {
        std::iter::once(&self.global_policies).chain(self.namespace_policies.get(namespace))
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().map(|compiled| &compiled.policy)
    }
}

/// Those that lay claim to one address or name, in order; the first holds it. Two can only while a change is under
/// way, such as a pod's address going to its successor; the rule must not depend on who came first.
type Claims<K> = SmallVec<[K; 1]>;

fn claim<A: Hash + Eq + Clone, K: Ord + Clone>(index: &mut HashMap<A, Claims<K>>, address: A, key: K) {
    let claims = index.entry(address).or_default();
    if let Err(place) = claims.binary_search(&key) {
        claims.insert(place, key);
    }
}

fn release<A: Hash + Eq + Clone, K: Ord + Clone>(index: &mut HashMap<A, Claims<K>>, address: &A, key: &K) {
    let Some(claims) = index.get_mut(address) else { return };
    claims.retain(|claimant| claimant != key);
    if claims.is_empty() {
        index.remove(address);
    }
}

fn holder<'a, A: Hash + Eq + Borrow<B>, B: Hash + Eq + ?Sized, K: Clone>(
    index: &'a HashMap<A, Claims<K>>,
    address: &B,
) -> Option<&'a K> {
    index.get(address)?.first()
}

/// Pods of the host network share their node's address: it belongs to none of them.
fn owned_addresses(workload: &Workload) -> impl Iterator<Item = NetworkAddress> + '_ {
    workload.addresses().filter(|_| workload.network_mode == NetworkMode::Standard)
}

/// Where the control side publishes and the data path reads, without a lock.
#[derive(Debug, Default)]
pub struct SharedSnapshot(ArcSwap<Snapshot>);

impl SharedSnapshot {
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}
