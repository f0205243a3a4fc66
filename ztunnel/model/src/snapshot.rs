//! The mesh as known at one moment. Readers hold an immutable snapshot; a change makes a new one that
//! shares all it did not touch, so it costs the change, not the mesh.

use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::{HashMap, OrdMap, OrdSet};

use crate::{
    NetworkAddress, TrustDomains, Workload, WorkloadUid,
    policy::{Policy, PolicyKey, Scope, compiled::Compiled, index::PolicySet},
    service::{Service, ServiceKey},
    settings::Settings,
    workload::NetworkMode,
};

mod claims;
mod filed;
mod services;
#[cfg(test)]
mod tests;
mod unreadable;

use filed::{Before, BeforeName, ByAddress, ByHostname, ByUid};
pub(crate) use services::KnownService;
use services::Services;
use unreadable::Unreadable;

/// Cloning is cheap: the maps are persistent and share their nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    workloads: OrdSet<ByUid>,
    /// Of those that have an address, the first by uid holds it. Two can only while a change is under way, such as a
    /// pod's address going to its successor; the rule must not depend on who came first.
    by_address: OrdSet<ByAddress>,
    /// Those that have one.
    by_hostname: OrdSet<ByHostname>,
    /// How many workloads of the host network are at each of their nodes' addresses.
    at_node_address: HashMap<NetworkAddress, usize>,
    services: Services,
    policies: OrdMap<PolicyKey, Arc<Compiled>>,
    global_policies: PolicySet,
    namespace_policies: HashMap<Arc<str>, PolicySet>,
    settings: Arc<Settings>,
    trust_domains: Arc<TrustDomains>,
    unreadable: Unreadable,
}

impl Snapshot {
    /// Adds the workload, or replaces the one of the same uid.
    pub fn insert_workload(&mut self, workload: Workload) {
        self.remove_workload(&workload.uid);
        let workload = Arc::new(workload);
        for filed in by_address(&workload) {
            self.by_address.insert(filed);
        }
        if !workload.hostname.is_empty() {
            self.by_hostname.insert(ByHostname(Arc::clone(&workload)));
        }
        for address in node_addresses(&workload) {
            *self.at_node_address.entry(address).or_default() += 1;
        }
        self.services.insert_endpoint(&workload);
        self.workloads.insert(ByUid(workload));
    }

    pub fn remove_workload(&mut self, uid: &WorkloadUid) {
        let Some(ByUid(old)) = self.workloads.remove(uid) else { return };
        for address in node_addresses(&old) {
            if let Some(1) = self.at_node_address.get(&address) {
                self.at_node_address.remove(&address);
            } else if let Some(count) = self.at_node_address.get_mut(&address) {
                *count -= 1;
            }
        }
        for filed in by_address(&old) {
            self.by_address.remove(&filed);
        }
        self.by_hostname.remove(&ByHostname(Arc::clone(&old)));
        self.services.remove_endpoint(&old);
    }

    pub fn insert_service(&mut self, service: Service) {
        self.services.insert(service);
    }

    pub fn remove_service(&mut self, key: &ServiceKey) {
        self.services.remove(key);
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

    /// Nobody is sent to these addresses, as something called `name` has them that cannot be read; what else is known to be
    /// there counts first. Whether anything is different now.
    pub fn close(&mut self, name: &str, addresses: &[NetworkAddress]) -> bool {
        self.unreadable.insert(name, addresses)
    }

    /// `name` is gone, or can be read. Whether it had closed any address.
    pub fn reopen(&mut self, name: &str) -> bool {
        self.unreadable.remove(name)
    }

    /// The addresses that `name` has closed.
    pub fn closed_by(&self, name: &str) -> &[NetworkAddress] {
        self.unreadable.of(name)
    }

    /// They must have passed [`Settings::check`].
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = Arc::new(settings);
    }

    /// Which trust domains are one, and which others are believed.
    pub fn set_trust_domains(&mut self, trust_domains: TrustDomains) {
        self.trust_domains = Arc::new(trust_domains);
    }

    pub fn trust_domains(&self) -> &TrustDomains {
        &self.trust_domains
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid).map(|ByUid(workload)| workload)
    }

    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        let first = self.by_address.range(Before(address)..).next();
        first.filter(|filed| filed.is_at(address)).map(|filed| &filed.workload)
    }

    /// Of several of one name in its namespace, the first by uid.
    pub fn workload_named(&self, name: &ServiceKey) -> Option<&Arc<Workload>> {
        let first = self.by_hostname.range(BeforeName(name)..).next();
        first.filter(|filed| filed.is_called(name)).map(|ByHostname(workload)| workload)
    }

    /// What cannot be read and has the address, unless it is a node's, where nobody speaks mutual TLS.
    pub(crate) fn unreadable_at(&self, address: &NetworkAddress) -> Option<&Arc<str>> {
        self.unreadable.at(address).filter(|_| !self.is_node_address(address))
    }

    /// Whether workloads of the host network are known there.
    pub fn is_node_address(&self, address: &NetworkAddress) -> bool {
        self.at_node_address.contains_key(address)
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key).map(|known| &known.service)
    }

    /// What this very address means to a client of `namespace`; see [`Snapshot::service_named`].
    pub fn service_at(&self, address: &NetworkAddress, namespace: &str) -> Option<&Arc<Service>> {
        self.known_service_at(address, namespace).map(|known| &known.service)
    }

    /// Of several services of one host name, a client of `namespace` gets its own namespace's first, then a canonical
    /// one, then the first by name; never one that only another namespace may see.
    pub fn service_named(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        self.services.named(hostname, namespace).map(|known| &known.service)
    }

    /// The service of the longest wildcard around `hostname`, such as `*.example.com` around `a.example.com`.
    pub fn service_around(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        let mut parents = hostname.match_indices('.').map(|(dot, _)| format!("*{}", &hostname[dot..]));
        parents.find_map(|wildcard| self.service_named(&wildcard, namespace))
    }

    pub(crate) fn known_service(&self, key: &ServiceKey) -> Option<&KnownService> {
        self.services.get(key)
    }

    pub(crate) fn known_service_at(
        &self,
        address: &NetworkAddress,
        namespace: &str,
    ) -> Option<&KnownService> {
        self.services.at(address, namespace)
    }

    /// The service with the narrowest block of addresses around this one.
    pub(crate) fn known_service_around(
        &self,
        address: &NetworkAddress,
        namespace: &str,
    ) -> Option<&KnownService> {
        self.services.around(address, namespace)
    }

    pub fn endpoints(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<Workload>> {
        self.services.endpoints(service)
    }

    /// The endpoints that have this name themselves, of a service that has no address.
    pub fn endpoints_named(&self, service: &ServiceKey, name: &str) -> impl Iterator<Item = &Arc<Workload>> {
        self.services.endpoints_named(service, name)
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
        self.workloads.iter().map(|ByUid(workload)| workload)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().map(|compiled| &compiled.policy)
    }
}

/// Pods of the host network share their node's address: it belongs to none of them.
fn by_address(workload: &Arc<Workload>) -> impl Iterator<Item = ByAddress> + '_ {
    let own = workload.workload_ips.iter().filter(|_| workload.network_mode == NetworkMode::Standard);
    own.map(|&ip| ByAddress { ip, workload: Arc::clone(workload) })
}

fn node_addresses(workload: &Workload) -> impl Iterator<Item = NetworkAddress> + '_ {
    workload.addresses().filter(|_| workload.network_mode == NetworkMode::HostNetwork)
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
