//! What the control plane has given us, by name and version, and how a response changes it and the snapshot.
//!
//! Only what differs is changed in the snapshot, so a full push of what is known already touches nothing.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use model::{Snapshot, TrustDomain, WorkloadUid, policy::PolicyKey, service::ServiceKey};
use proto::discovery::{DeltaDiscoveryResponse, Resource};

use super::{
    convert::{Converter, Object, policy_key},
    kind::Kind,
};

type Version = Arc<str>;

pub(super) struct Holding {
    converter: Converter,
    workloads: HashMap<WorkloadUid, Version>,
    services: HashMap<ServiceKey, Version>,
    policies: HashMap<PolicyKey, Version>,
    /// Those of which only what could be read is in force.
    curtailed_services: HashSet<ServiceKey>,
    curtailed_policies: HashSet<PolicyKey>,
    /// Workloads and services of which nothing but addresses could be used, as they were sent last: those that have closed
    /// addresses. A good version from before is in force all the same.
    unreadable: HashSet<String>,
    /// Most resources of a push have the same.
    last_version: Version,
}

/// What a response came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Objects added, changed or removed in the snapshot.
    pub(super) changed: usize,
    /// Resources that cannot be used as they are, and why.
    pub(super) rejected: Vec<(String, String)>,
}

impl Holding {
    pub(super) fn new(trust_domain: TrustDomain, root_namespace: Option<String>) -> Self {
        Self {
            converter: Converter::new(trust_domain, root_namespace),
            workloads: HashMap::new(),
            services: HashMap::new(),
            policies: HashMap::new(),
            curtailed_services: HashSet::new(),
            curtailed_policies: HashSet::new(),
            unreadable: HashSet::new(),
            last_version: Version::default(),
        }
    }

    pub(super) fn apply(
        &mut self,
        kind: Kind,
        response: &DeltaDiscoveryResponse,
        snapshot: &mut Snapshot,
    ) -> Effect {
        let mut effect = Effect::default();
        // First: a name that is in both lists is there.
        for name in &response.removed_resources {
            effect.changed += usize::from(self.remove(kind, name, snapshot));
        }
        for resource in &response.resources {
            let version = self.version(&resource.version);
            let object = self.converter.convert(kind, resource);
            if let Err(reason) = self.accept(&resource.name, object, version, snapshot, &mut effect) {
                effect.rejected.push((resource.name.clone(), reason));
            }
        }
        effect
    }

    /// An error is for the control plane to hear, whether or not something was made of the object.
    fn accept(
        &mut self,
        name: &str,
        object: Object,
        version: Version,
        snapshot: &mut Snapshot,
        effect: &mut Effect,
    ) -> Result<(), String> {
        if let Object::Unreadable(addresses, flaw) = object {
            effect.changed += usize::from(snapshot.close(name, &addresses));
            if addresses.is_empty() {
                self.unreadable.remove(name);
            } else {
                self.unreadable.insert(name.to_owned());
            }
            return Err(flaw);
        }
        effect.changed += usize::from(self.forget_unreadable(name, snapshot));
        match object {
            Object::Unreadable(..) => {}
            Object::Workload(workload) => {
                self.workloads.insert(workload.uid.clone(), version);
                if snapshot.workload(&workload.uid).is_none_or(|old| **old != workload) {
                    snapshot.insert_workload(workload);
                    effect.changed += 1;
                }
            }
            Object::Service(service, flaw) => {
                let (held, curtailed) = (&mut self.services, &mut self.curtailed_services);
                let key = service.key();
                if stands(held, curtailed, &key, flaw.is_none().then_some(version))
                    && snapshot.service(&key).is_none_or(|old| **old != service)
                {
                    snapshot.insert_service(service);
                    effect.changed += 1;
                }
                return flaw.map_or(Ok(()), Err);
            }
            Object::Policy(policy, flaw) => {
                let (held, curtailed) = (&mut self.policies, &mut self.curtailed_policies);
                let key = policy.key();
                if stands(held, curtailed, &key, flaw.is_none().then_some(version))
                    && snapshot.policy(&key).is_none_or(|old| **old != policy)
                {
                    snapshot.insert_policy(policy);
                    effect.changed += 1;
                }
                return flaw.map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// Whether there was such a one.
    pub(super) fn remove(&mut self, kind: Kind, name: &str, snapshot: &mut Snapshot) -> bool {
        match kind {
            Kind::Address => self.remove_address(name, snapshot),
            Kind::Authorization => {
                let key = policy_key(name);
                snapshot.remove_policy(&key);
                self.curtailed_policies.remove(&key);
                self.policies.remove(&key).is_some()
            }
        }
    }

    fn remove_address(&mut self, name: &str, snapshot: &mut Snapshot) -> bool {
        let was_unreadable = self.forget_unreadable(name, snapshot);
        self.remove_readable(name, snapshot) || was_unreadable
    }

    fn forget_unreadable(&mut self, name: &str, snapshot: &mut Snapshot) -> bool {
        self.unreadable.remove(name) && snapshot.reopen(name)
    }

    /// A uid may look like a service's name.
    fn remove_readable(&mut self, name: &str, snapshot: &mut Snapshot) -> bool {
        let uid = WorkloadUid::new(name);
        if self.workloads.remove(&uid).is_some() {
            snapshot.remove_workload(&uid);
            return true;
        }
        let Ok(key) = name.parse::<ServiceKey>() else { return false };
        snapshot.remove_service(&key);
        self.curtailed_services.remove(&key);
        self.services.remove(&key).is_some()
    }

    /// For `initial_resource_versions`.
    pub(super) fn versions(&self, kind: Kind) -> HashMap<String, String> {
        fn texts<K: ToString>(versions: &HashMap<K, Version>) -> impl Iterator<Item = (String, String)> {
            versions.iter().map(|(key, version)| (key.to_string(), version.as_ref().to_owned()))
        }
        match kind {
            Kind::Address => {
                // Under no version, so that they are sent again; what is in force from before goes before them.
                let unreadable = self.unreadable.iter().map(|name| (name.clone(), String::new()));
                unreadable.chain(texts(&self.workloads)).chain(texts(&self.services)).collect()
            }
            Kind::Authorization => texts(&self.policies).collect(),
        }
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    pub(super) fn workloads(&self) -> impl Iterator<Item = &WorkloadUid> {
        self.workloads.keys()
    }

    /// Those that there is no good version of.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = &String> {
        self.unreadable.iter().filter(|name| {
            let is_service = name.parse().is_ok_and(|key| self.services.contains_key(&key));
            !is_service && !self.workloads.contains_key(&WorkloadUid::new(name))
        })
    }

    pub(super) fn counts(&self) -> [(&'static str, usize); 3] {
        [
            ("workloads", self.workloads.len()),
            ("services", self.services.len()),
            ("policies", self.policies.len()),
        ]
    }

    fn version(&mut self, version: &str) -> Version {
        if *self.last_version != *version {
            self.last_version = version.into();
        }
        Arc::clone(&self.last_version)
    }
}

/// Whether what has come is to be in force: if it is good, which its `version` says; or if there is no good one before it,
/// which would stay. Then it stands under no version: it is not what was sent.
fn stands<K: Clone + Eq + Hash>(
    held: &mut HashMap<K, Version>,
    curtailed: &mut HashSet<K>,
    key: &K,
    version: Option<Version>,
) -> bool {
    let has_good = held.contains_key(key) && !curtailed.contains(key);
    if version.is_some() {
        curtailed.remove(key);
    } else if has_good {
        return false;
    } else {
        curtailed.insert(key.clone());
    }
    held.insert(key.clone(), version.unwrap_or_default());
    true
}

/// The names under which `resource` may have been asked for.
pub(super) fn names(resource: &Resource) -> impl Iterator<Item = &String> {
    std::iter::once(&resource.name).chain(&resource.aliases)
}
