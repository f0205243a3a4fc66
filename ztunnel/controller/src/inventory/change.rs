//! What the watches tell, and what each object's change touches.

use std::{collections::BTreeSet, sync::Arc};

use super::{Inventory, Objects, within};
use crate::{
    convert,
    facts::{Key, Node, Pod, Policy, PolicyKind, Service, Slice, selects},
};

/// Of what is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    Namespace,
    Node,
    Pod,
    Service,
    Slice,
    Authorization,
    PeerAuthentication,
}

impl Sort {
    pub(crate) const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::Slice,
        Self::Authorization,
        Self::PeerAuthentication,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::Slice => "endpointslices",
            Self::Authorization => "authorizationpolicies",
            Self::PeerAuthentication => "peerauthentications",
        }
    }
}

/// What is kept of an object.
#[derive(Debug)]
pub(crate) enum Object {
    /// With the value of its label.
    Namespace(String, Option<String>),
    Node(Node),
    Pod(Pod),
    Service(Service),
    Slice(Slice),
    Policy(PolicyKind, Policy),
}

/// By a watch.
#[derive(Debug)]
pub(crate) enum Told {
    /// All that there is of a sort.
    All(Sort, Vec<Object>),
    Applied(Object),
    Deleted(Object),
}

impl Inventory {
    pub(crate) fn take(&mut self, told: Told) {
        match told {
            Told::All(sort, objects) => self.replace(sort, objects),
            Told::Applied(object) => self.put(object),
            Told::Deleted(object) => self.remove(sort(&object), &key(&object)),
        }
    }

    fn replace(&mut self, of: Sort, objects: Vec<Object>) {
        let there: BTreeSet<Key> = objects.iter().map(key).collect();
        for gone in self.keys(of).into_iter().filter(|key| !there.contains(key)) {
            self.remove(of, &gone);
        }
        objects.into_iter().for_each(|object| self.put(object));
        self.told.insert(of);
        if of == Sort::PeerAuthentication {
            self.touched.peers = true;
        }
    }

    fn keys(&self, of: Sort) -> Vec<Key> {
        let of_cluster = |name: &String| (String::new(), name.clone());
        match of {
            Sort::Namespace => self.namespaces.keys().map(of_cluster).collect(),
            Sort::Node => self.nodes.keys().map(of_cluster).collect(),
            Sort::Pod => self.pods.keys().cloned().collect(),
            Sort::Service => self.services.keys().cloned().collect(),
            Sort::Slice => self.slices.keys().cloned().collect(),
            Sort::Authorization => self.authorizations.keys().cloned().collect(),
            Sort::PeerAuthentication => self.peers.keys().cloned().collect(),
        }
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Namespace(name, mode) => {
                if self.namespaces.insert(name.clone(), mode.clone()) != Some(mode) {
                    self.touch_namespace(&name);
                }
            }
            Object::Node(node) => {
                let name = node.name.clone();
                if self.nodes.get(&name) != Some(&node) {
                    self.nodes.insert(name.clone(), node);
                    self.touch_node(&name);
                }
            }
            Object::Pod(pod) => {
                self.touched.pods.insert(pod.key.clone());
                self.pods.insert(pod.key.clone(), Arc::new(pod));
            }
            Object::Service(service) => {
                if self.services.get(&service.key).is_some_and(|before| **before == service) {
                    return;
                }
                self.touch_service(&service);
                let before = self.services.insert(service.key.clone(), Arc::new(service));
                before.iter().for_each(|before| self.touch_service(before));
            }
            Object::Slice(slice) => {
                self.touched.slices.insert(slice.key.clone());
                self.slices.insert(slice.key.clone(), Arc::new(slice));
            }
            Object::Policy(PolicyKind::Authorization, policy) => {
                self.touch_authorization(&policy);
                let before = self.authorizations.insert(policy.key.clone(), Arc::new(policy));
                before.iter().for_each(|before| self.touch_authorization(before));
            }
            Object::Policy(PolicyKind::PeerAuthentication, policy) => {
                let (key, spec) = (policy.key.clone(), policy.spec.clone());
                let before = self.peers.insert(key.clone(), Arc::new(policy));
                if before.is_none_or(|before| before.spec != spec) {
                    self.touch_peer(&key);
                }
                // What its status says by now is looked at in any case.
                self.touched.peers = true;
            }
        }
    }

    fn remove(&mut self, of: Sort, key: &Key) {
        match of {
            Sort::Namespace => {
                self.namespaces.remove(&key.1);
                self.touch_namespace(&key.1);
            }
            Sort::Node => {
                self.nodes.remove(&key.1);
                self.touch_node(&key.1);
            }
            Sort::Pod => {
                self.pods.remove(key);
                self.touched.pods.insert(key.clone());
            }
            Sort::Service => {
                let before = self.services.remove(key);
                before.iter().for_each(|before| self.touch_service(before));
            }
            Sort::Slice => {
                self.slices.remove(key);
                self.touched.slices.insert(key.clone());
            }
            Sort::Authorization => {
                let before = self.authorizations.remove(key);
                before.iter().for_each(|before| self.touch_authorization(before));
            }
            Sort::PeerAuthentication => {
                self.peers.remove(key);
                self.touched.gone_peers.insert(key.clone());
                self.touch_peer(key);
            }
        }
    }

    fn touch_namespace(&mut self, namespace: &str) {
        self.touched.pods.extend(within(&self.pods, namespace).map(|pod| pod.key.clone()));
    }

    fn touch_node(&mut self, node: &str) {
        let pods = self.pods.values().filter(|pod| pod.node == node);
        self.touched.pods.extend(pods.map(|pod| pod.key.clone()));
    }

    /// Its pods and its endpoints say which services they belong to.
    fn touch_service(&mut self, service: &Service) {
        let (namespace, name) = &service.key;
        self.touched.services.insert(service.key.clone());
        let pods = within(&self.pods, namespace).filter(|pod| service.selects(&pod.labels));
        self.touched.pods.extend(pods.map(|pod| pod.key.clone()));
        let slices = within(&self.slices, namespace).filter(|slice| slice.service.as_ref() == Some(name));
        self.touched.slices.extend(slices.map(|slice| slice.key.clone()));
    }

    /// Pods name the policies whose selectors take them.
    fn touch_authorization(&mut self, policy: &Policy) {
        self.touched.authorizations.insert(policy.key.clone());
        let Some(labels) = convert::selector(policy) else { return };
        let taken = |pod: &Pod| selects(&labels, &pod.labels);
        let pods: Vec<Key> =
            self.scope(&policy.key.0).filter(|pod| taken(pod)).map(|pod| pod.key.clone()).collect();
        self.touched.pods.extend(pods);
    }

    fn touch_peer(&mut self, key: &Key) {
        self.touched.peers = true;
        let pods: Vec<Key> = self.scope(&key.0).map(|pod| pod.key.clone()).collect();
        self.touched.pods.extend(pods);
    }

    /// The pods that policies of a namespace can be about.
    fn scope(&self, namespace: &str) -> Box<dyn Iterator<Item = &Pod> + '_> {
        let pods: &Objects<Pod> = &self.pods;
        if namespace == self.cluster.root_namespace {
            Box::new(pods.values().map(Arc::as_ref))
        } else {
            Box::new(within(pods, namespace))
        }
    }
}

fn sort(object: &Object) -> Sort {
    match object {
        Object::Namespace(..) => Sort::Namespace,
        Object::Node(_) => Sort::Node,
        Object::Pod(_) => Sort::Pod,
        Object::Service(_) => Sort::Service,
        Object::Slice(_) => Sort::Slice,
        Object::Policy(PolicyKind::Authorization, _) => Sort::Authorization,
        Object::Policy(PolicyKind::PeerAuthentication, _) => Sort::PeerAuthentication,
    }
}

fn key(object: &Object) -> Key {
    match object {
        Object::Namespace(name, _) => (String::new(), name.clone()),
        Object::Node(node) => (String::new(), node.name.clone()),
        Object::Pod(pod) => pod.key.clone(),
        Object::Service(service) => service.key.clone(),
        Object::Slice(slice) => slice.key.clone(),
        Object::Policy(_, policy) => policy.key.clone(),
    }
}
