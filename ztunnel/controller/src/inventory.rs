//! All that is known of the cluster, and which resources a change touches.
//!
//! A change marks what may look different because of it; [`Inventory::settle`] makes these resources anew, and only these.
//! Nothing is handed on before every watch has told all there is: half of the policies would allow what all of them deny.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kubernetes::Own;
use proto::{security::Authorization, workload::Workload};

use crate::{
    book::{Kind, Resource, Update},
    convert::{self, Cluster, PodSurroundings, Verdict},
    facts::{Key, Node, Pod, Policy, PolicyKind, Service, Slice, selects},
};

mod change;
mod touched;

pub(crate) use change::{Object, Sort, Told};
use touched::Touched;

/// By namespace and name.
type Objects<T> = BTreeMap<Key, Arc<T>>;

pub(crate) struct Inventory {
    cluster: Cluster,
    own: Own,
    /// The value of each namespace's label, if it has one.
    namespaces: BTreeMap<String, Option<String>>,
    nodes: BTreeMap<String, Node>,
    pods: Objects<Pod>,
    services: Objects<Service>,
    slices: Objects<Slice>,
    authorizations: Objects<Policy>,
    peers: Objects<Policy>,
    /// The resources of each slice that are served.
    endpoints: BTreeMap<Key, BTreeSet<String>>,
    told: BTreeSet<Sort>,
    touched: Touched,
}

impl Inventory {
    pub(crate) fn new(cluster: Cluster, own: Own) -> Self {
        Self {
            cluster,
            own,
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            authorizations: BTreeMap::new(),
            peers: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            told: BTreeSet::new(),
            touched: Touched::default(),
        }
    }

    pub(crate) fn own(&self) -> &Own {
        &self.own
    }

    /// Whether every watch has told all there is at least once.
    pub(crate) fn is_complete(&self) -> bool {
        Sort::ALL.iter().all(|sort| self.told.contains(sort))
    }

    /// Which are still to come.
    pub(crate) fn missing(&self) -> Vec<Sort> {
        Sort::ALL.into_iter().filter(|sort| !self.told.contains(sort)).collect()
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether a pod of the mesh with this service account runs, or is about to, on this node. Others need no certificate; and
    /// mirror pods, which a node's kubelet may make in any namespace, get none.
    pub(crate) fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        let mode = self.namespaces.get(namespace).and_then(Option::as_deref);
        let fits = |pod: &Pod| {
            pod.node == node
                && !pod.ended
                && pod.service_account == service_account
                && pod.enrolment.membership(mode).is_ok()
        };
        within(&self.pods, namespace).any(fits)
    }

    /// What daemons are to be told of all that was touched. Nothing before everything is known.
    pub(crate) fn settle(&mut self) -> Option<Settled> {
        if !self.is_complete() {
            return None;
        }
        let touched = std::mem::take(&mut self.touched);
        let mut settled = Settled::default();
        touched.pods.iter().for_each(|key| self.settle_pod(key, &mut settled.update));
        touched.services.iter().for_each(|key| self.settle_service(key, &mut settled.update));
        touched.slices.iter().for_each(|key| self.settle_slice(key, &mut settled.update));
        touched.authorizations.iter().for_each(|key| self.settle_authorization(key, &mut settled));
        if touched.peers {
            self.settle_peers(&mut settled);
        }
        for key in touched.gone_peers.iter().filter(|key| !self.peers.contains_key(*key)) {
            let name = format!("{}/{}", key.0, convert::converted_name(&key.1));
            settled.update.removed.push((Kind::Authorization, name));
            settled.gone.push((PolicyKind::PeerAuthentication, key.clone()));
        }
        Some(settled)
    }

    fn settle_pod(&self, key: &Key, update: &mut Update) {
        let pod = self.pods.get(key);
        match pod.and_then(|pod| convert::workload(&self.cluster, pod, self.surroundings(pod))) {
            Some(workload) => update.present.push((Kind::Address, Resource::workload(workload))),
            None => update.removed.push((Kind::Address, self.cluster.pod_uid(&key.0, &key.1))),
        }
    }

    fn surroundings<'a>(&'a self, pod: &Pod) -> PodSurroundings<'a> {
        let (namespace, _) = &pod.key;
        let mode = self.namespaces.get(namespace).and_then(Option::as_deref);
        PodSurroundings {
            is_enrolled: pod.enrolment.membership(mode).is_ok(),
            node: self.nodes.get(&pod.node),
            services: within(&self.services, namespace)
                .filter(|service| service.selects(&pod.labels))
                .collect(),
            policies: self.policies(pod),
        }
    }

    /// Those with a selector that takes it, of its own namespace and of the mesh's.
    fn policies(&self, pod: &Pod) -> Vec<String> {
        let (namespace, _) = &pod.key;
        let root = &self.cluster.root_namespace;
        let mut from_root = within(&self.authorizations, root).collect::<Vec<_>>();
        if root == namespace {
            from_root.clear();
        }
        let all = within(&self.authorizations, namespace).chain(from_root);
        let taking = all
            .filter(|policy| convert::selector(policy).is_some_and(|labels| selects(&labels, &pod.labels)));
        let mut names: Vec<String> =
            taking.map(|policy| format!("{}/{}", policy.key.0, policy.key.1)).collect();
        let peers = self.peers_of(namespace);
        names.extend(convert::effective(&self.cluster, namespace, &pod.labels, &peers));
        names
    }

    fn peers_of(&self, namespace: &str) -> Vec<&Policy> {
        let root = &self.cluster.root_namespace;
        let of_root = within(&self.peers, root).filter(|_| root != namespace);
        within(&self.peers, namespace).chain(of_root).collect()
    }

    fn settle_service(&self, key: &Key, update: &mut Update) {
        match self.services.get(key).and_then(|service| convert::service(&self.cluster, service)) {
            Some(service) => update.present.push((Kind::Address, Resource::service(service))),
            None => update.removed.push((Kind::Address, self.cluster.service_name(&key.0, &key.1))),
        }
    }

    fn settle_slice(&mut self, key: &Key, update: &mut Update) {
        let workloads: Vec<Workload> = self.slices.get(key).map_or_else(Vec::new, |slice| {
            let service =
                slice.service.as_ref().and_then(|name| self.services.get(&(key.0.clone(), name.clone())));
            convert::endpoints(&self.cluster, slice, service.map(Arc::as_ref))
        });
        let names: BTreeSet<String> = workloads.iter().map(|workload| workload.uid.clone()).collect();
        let before = self.endpoints.remove(key).unwrap_or_default();
        update.removed.extend(before.difference(&names).map(|name| (Kind::Address, name.clone())));
        update
            .present
            .extend(workloads.into_iter().map(|workload| (Kind::Address, Resource::workload(workload))));
        if !names.is_empty() {
            self.endpoints.insert(key.clone(), names);
        }
    }

    fn settle_authorization(&self, key: &Key, settled: &mut Settled) {
        let policy = self.authorizations.get(key);
        let (made, verdict) =
            policy.map(|policy| convert::authorization(&self.cluster, policy)).unwrap_or_default();
        match made {
            Some(made) => settled.update.present.push((Kind::Authorization, Resource::authorization(&made))),
            None => settled.update.removed.push((Kind::Authorization, format!("{}/{}", key.0, key.1))),
        }
        match policy {
            Some(policy) => settled.verdicts.push((PolicyKind::Authorization, Arc::clone(policy), verdict)),
            None => settled.gone.push((PolicyKind::Authorization, key.clone())),
        }
    }

    /// All of them: each depends on those of the wider scopes, and there are few.
    fn settle_peers(&self, settled: &mut Settled) {
        let update = &mut settled.update;
        let mut put = |name: String, made: Option<Authorization>| match made {
            Some(made) => update.present.push((Kind::Authorization, Resource::authorization(&made))),
            None => update.removed.push((Kind::Authorization, name)),
        };
        let strict = (!self.peers.is_empty()).then(|| convert::static_strict(&self.cluster));
        put(format!("{}/{}", self.cluster.root_namespace, convert::STATIC_STRICT), strict);
        for (key, policy) in &self.peers {
            let made = convert::converted(&self.cluster, policy, &self.peers_of(&key.0));
            put(format!("{}/{}", key.0, convert::converted_name(&key.1)), made);
        }
        let verdicts = self.peers.values().map(|policy| {
            (PolicyKind::PeerAuthentication, Arc::clone(policy), convert::peer_verdict(&self.cluster, policy))
        });
        settled.verdicts.extend(verdicts);
    }
}

/// What comes of a change.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) update: Update,
    /// What was made of each policy that was looked at.
    pub(crate) verdicts: Vec<(PolicyKind, Arc<Policy>, Verdict)>,
    /// Policies that are no longer there.
    pub(crate) gone: Vec<(PolicyKind, Key)>,
}

/// The objects of a namespace.
fn within<'a, T>(objects: &'a Objects<T>, namespace: &str) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let namespace = namespace.to_owned();
    let first = (namespace.clone(), String::new());
    objects.range(first..).take_while(move |((of, _), _)| *of == namespace).map(|(_, object)| object.as_ref())
}

#[cfg(test)]
mod tests;
