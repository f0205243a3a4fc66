//! The rules of many policies, so filed that a connection meets only those that may concern it.
//!
//! Persistent like the rest of a snapshot: a change costs that change, and older readers do not see it.

use std::{hash::Hash, net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;

mod affixes;

use affixes::Affixes;

use super::{
    Action, Attributes, PolicyKey,
    compiled::{Compiled, Rule},
    door::Ends,
};

/// The policies that hold for the same workloads, by what they do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PolicySet {
    enforced: ByAction,
    dry_run: ByAction,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ByAction {
    pub(crate) deny: RuleIndex,
    pub(crate) allow: RuleIndex,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RuleIndex {
    policies: usize,
    any: ByPort,
    principals: HashMap<Arc<str>, ByPort>,
    namespaces: HashMap<Arc<str>, InNamespace>,
    principals_like: Affixes,
    namespaces_like: Affixes,
    sources: Networks,
    destinations: Networks,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct InNamespace {
    any: ByPort,
    accounts: HashMap<Arc<str>, ByPort>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Networks {
    nets: HashMap<IpNet, ByPort>,
    /// How many nets of each family and prefix length there are: the lengths are what a lookup tries.
    lengths: OrdMap<(bool, u8), usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ByPort {
    any: Rules,
    ports: HashMap<u16, Rules>,
}

/// A policy's rule, by its place in it.
type Rules = OrdMap<(PolicyKey, usize), Arc<Compiled>>;

impl PolicySet {
    pub(crate) fn of(&self, dry_run: bool) -> &ByAction {
        if dry_run { &self.dry_run } else { &self.enforced }
    }

    pub(crate) fn insert(&mut self, policy: &Arc<Compiled>) {
        self.index_of(policy).insert(policy);
    }

    pub(crate) fn remove(&mut self, policy: &Arc<Compiled>) {
        self.index_of(policy).remove(policy);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.enforced.is_empty() && self.dry_run.is_empty()
    }

    fn index_of(&mut self, policy: &Compiled) -> &mut RuleIndex {
        let set = if policy.policy.dry_run { &mut self.dry_run } else { &mut self.enforced };
        match policy.policy.action {
            Action::Allow => &mut set.allow,
            Action::Deny => &mut set.deny,
        }
    }
}

impl ByAction {
    pub(crate) fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }
}

impl RuleIndex {
    /// Whether there is no policy here, not even one that can never match.
    pub(crate) fn is_empty(&self) -> bool {
        self.policies == 0
    }

    /// A policy that matches. Allocates nothing.
    pub(crate) fn matching(&self, attributes: &Attributes<'_>) -> Option<&PolicyKey> {
        self.candidates(attributes).find(|(_, rule)| rule.holds(attributes)).map(|(policy, _)| &policy.key)
    }

    /// The rules that may hold; all others do not. One may come twice.
    pub(super) fn candidates(&self, a: &Attributes<'_>) -> impl Iterator<Item = (&Compiled, &Rule)> {
        let namespace = a.peer.and_then(|peer| self.namespaces.get(peer.namespace()));
        let by_identity = [
            Some(&self.any),
            namespace.map(|namespace| &namespace.any),
            namespace.and_then(|namespace| namespace.accounts.get(a.peer?.service_account())),
        ];
        let by_address = self.sources.around(a.source_ip).chain(self.destinations.around(a.destination_ip));
        let by_principal = a.principals().filter_map(|principal| self.principals.get(principal));
        let like_principal = a.principals().flat_map(|principal| self.principals_like.of(principal));
        let like_namespace = a.peer.into_iter().flat_map(|peer| self.namespaces_like.of(peer.namespace()));
        let port = a.destination_port;
        by_identity
            .into_iter()
            .flatten()
            .chain(by_principal)
            .chain(like_principal)
            .chain(like_namespace)
            .chain(by_address)
            .flat_map(move |rules| rules.at(port))
    }

    fn insert(&mut self, policy: &Arc<Compiled>) {
        self.policies += 1;
        self.for_each_place(policy, |rules, id| {
            rules.insert(id, Arc::clone(policy));
        });
    }

    fn remove(&mut self, policy: &Arc<Compiled>) {
        self.policies -= 1;
        self.for_each_place(policy, |rules, id| {
            rules.remove(&id);
        });
    }

    fn for_each_place(&mut self, policy: &Compiled, change: impl Fn(&mut Rules, (PolicyKey, usize))) {
        for (number, rule) in policy.rules.iter().enumerate() {
            let id = (policy.key.clone(), number);
            let ports = rule.ports();
            for ends in rule.ends() {
                self.at(&ends, |door| door.change(&ports, |rules| change(rules, id.clone())));
            }
        }
    }

    fn at(&mut self, ends: &Ends, change: impl FnOnce(&mut ByPort)) {
        match ends {
            Ends::Any => change(&mut self.any),
            Ends::Principal(principal) => within(&mut self.principals, principal, change),
            Ends::Namespace(name) => {
                within(&mut self.namespaces, name, |entry| change(&mut entry.any));
            }
            Ends::Account { namespace, service_account } => {
                within(&mut self.namespaces, namespace, |namespace| {
                    within(&mut namespace.accounts, service_account, change);
                });
            }
            Ends::PrincipalLike(affix) => self.principals_like.at(affix, change),
            Ends::NamespaceLike(affix) => self.namespaces_like.at(affix, change),
            Ends::Source(net) => self.sources.at(*net, change),
            Ends::Destination(net) => self.destinations.at(*net, change),
        }
    }
}

impl Networks {
    fn around(&self, ip: IpAddr) -> impl Iterator<Item = &ByPort> {
        let lengths = self.lengths.keys().filter(move |(v4, _)| *v4 == ip.is_ipv4());
        lengths.filter_map(move |&(_, length)| self.nets.get(&IpNet::new(ip, length).ok()?.trunc()))
    }

    fn at(&mut self, net: IpNet, change: impl FnOnce(&mut ByPort)) {
        let before = self.nets.len();
        within(&mut self.nets, &net, change);
        let length = (net.addr().is_ipv4(), net.prefix_len());
        let count = self.lengths.get(&length).copied().unwrap_or_default() + self.nets.len() - before;
        if count == 0 {
            self.lengths.remove(&length);
        } else {
            self.lengths.insert(length, count);
        }
    }
}

impl ByPort {
    fn at(&self, port: u16) -> impl Iterator<Item = (&Compiled, &Rule)> {
        let rules = self.any.iter().chain(self.ports.get(&port).into_iter().flatten());
        rules.filter_map(|((_, number), policy)| Some((&**policy, policy.rules.get(*number)?)))
    }

    fn change(&mut self, ports: &[u16], change: impl Fn(&mut Rules)) {
        if ports.is_empty() {
            change(&mut self.any);
        }
        for port in ports {
            within(&mut self.ports, port, &change);
        }
    }
}

/// Changes the entry of `key`, which is there only while it differs from an empty one.
fn within<K: Hash + Eq + Clone, V: Clone + Default + PartialEq>(
    map: &mut HashMap<K, V>,
    key: &K,
    change: impl FnOnce(&mut V),
) {
    let entry = map.entry(key.clone()).or_default();
    change(entry);
    if *entry == V::default() {
        map.remove(key);
    }
}

#[cfg(test)]
mod tests;
