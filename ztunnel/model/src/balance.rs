//! Which endpoint of a service a connection goes to: by weight, among those that the service's preferences put first.
//!
//! The endpoints stand in one tree, ordered so that those a client may be sent to lie side by side: by port, by address
//! families, by network, then by each scope of the routing preference in turn. The endpoints that share the client's
//! first `n` scopes are therefore one stretch, and a choice weighs a handful of stretches and takes one item:
//! O(log n) however many endpoints there are. A change of one endpoint costs the same.

use std::{cmp::Ordering, net::SocketAddr, sync::Arc};

use smallvec::SmallVec;

use crate::{
    Workload, WorkloadUid,
    service::{LoadBalancer, Mode, Scope, Service},
};

mod reach;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use reach::{Address, Reach};
use tree::Tree;

/// Of one service, as one snapshot knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Balance {
    tree: Tree<Entry>,
}

/// An endpoint, once for all ports that the service itself leads somewhere, and once for each port whose target only
/// the endpoint knows.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    lane: u16,
    reach: Reach,
    endpoint: Arc<Workload>,
}

/// The lane of the ports that every endpoint serves. Port 0 is nobody's.
const EVERY_PORT: u16 = 0;

/// Who asks for which port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) client: &'a Workload,
    /// The service's address and port that the client asked for.
    pub(crate) asked: SocketAddr,
    /// Any number, as random as the choice shall be.
    pub(crate) dice: u64,
    /// Not to be chosen again.
    pub(crate) tried: &'a [WorkloadUid],
    /// Chosen only if there is nobody else.
    pub(crate) set_aside: &'a [WorkloadUid],
}

/// Why nobody can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nobody {
    NoEndpoint,
    /// There are some, and none where the routing preference demands one.
    OutOfScope,
    /// There are some, in networks that are not reached from the client's.
    OtherNetwork,
}

impl Balance {
    pub(crate) fn new<'a>(service: &Service, endpoints: impl IntoIterator<Item = &'a Arc<Workload>>) -> Self {
        let mut balance = Self::default();
        endpoints.into_iter().for_each(|endpoint| balance.insert(service, endpoint));
        balance
    }

    pub(crate) fn insert(&mut self, service: &Service, endpoint: &Arc<Workload>) {
        let scopes = scopes(service);
        for entry in entries(service, endpoint) {
            self.tree = self.tree.insert(entry, endpoint.capacity, &|a, b| a.compare(b, scopes));
        }
    }

    /// `endpoint` as it was when it was inserted.
    pub(crate) fn remove(&mut self, service: &Service, endpoint: &Arc<Workload>) {
        let scopes = scopes(service);
        for gone in entries(service, endpoint) {
            self.tree = self.tree.remove(&|entry| entry.compare(&gone, scopes));
        }
    }

    /// An endpoint, and whether another could have been chosen. `known` finds endpoints by uid.
    pub(crate) fn choose<'a>(
        &self,
        service: &Service,
        question: &Question<'_>,
        known: impl Fn(&WorkloadUid) -> Option<&'a Arc<Workload>>,
    ) -> Result<(Arc<Workload>, bool), Nobody> {
        let fresh = self.without(service, question.tried, &known);
        let calm = fresh.without(service, question.set_aside, &known);
        let ask = Ask::new(service, question);
        let chosen = calm.pick(&ask).or_else(|| fresh.pick(&ask));
        let (entry, weight) = chosen.ok_or_else(|| self.why_nobody(&ask))?;
        let all = fresh.weight(&ask, ask.least_rank());
        Ok((Arc::clone(&entry.endpoint), all > u64::from(weight)))
    }

    /// Persistent, so leaving somebody out for one question is as cheap as a change.
    fn without<'a>(
        &self,
        service: &Service,
        uids: &[WorkloadUid],
        known: impl Fn(&WorkloadUid) -> Option<&'a Arc<Workload>>,
    ) -> Self {
        let mut rest = self.clone();
        uids.iter().filter_map(known).for_each(|endpoint| rest.remove(service, endpoint));
        rest
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<(&Entry, u32)> {
        ask.ranks().find_map(|rank| {
            let mut ticket = ask.question.dice.checked_rem(self.weight(ask, rank))?;
            for reach in ask.reaches() {
                let (start, weight) = self.stretch(ask, reach, rank);
                match ticket.checked_sub(weight) {
                    None => return self.tree.at(start + ticket),
                    Some(rest) => ticket = rest,
                }
            }
            None
        })
    }

    /// The weight of all whom the client reaches and with whom it shares `rank` scopes.
    fn weight(&self, ask: &Ask<'_>, rank: usize) -> u64 {
        ask.reaches().map(|reach| self.stretch(ask, reach, rank).1).sum()
    }

    /// Where the stretch begins, and its weight.
    fn stretch(&self, ask: &Ask<'_>, reach: Reach, rank: usize) -> (u64, u64) {
        let start = self.tree.weight_while(|entry| ask.place(entry, reach, rank).is_lt());
        let end = self.tree.weight_while(|entry| ask.place(entry, reach, rank).is_le());
        (start, end - start)
    }

    fn why_nobody(&self, ask: &Ask<'_>) -> Nobody {
        let before = self.tree.weight_while(|entry| entry.lane < ask.lane);
        let in_lane = self.tree.weight_while(|entry| entry.lane <= ask.lane) - before;
        let near: u64 = Reach::ALL.into_iter().map(|reach| self.stretch(ask, reach, 0).1).sum();
        if near == 0 && in_lane > 0 {
            Nobody::OtherNetwork
        } else if self.weight(ask, 0) > 0 && ask.least_rank() > 0 {
            Nobody::OutOfScope
        } else {
            Nobody::NoEndpoint
        }
    }
}

/// A question, with what the service says about answering it.
struct Ask<'a> {
    question: &'a Question<'a>,
    scopes: &'a [Scope],
    mode: Mode,
    lane: u16,
    reachable: Reach,
}

impl<'a> Ask<'a> {
    fn new(service: &'a Service, question: &'a Question<'a>) -> Self {
        let by_name = service.ports.get(&question.asked.port()) == Some(&0);
        Self {
            question,
            scopes: scopes(service),
            mode: service.load_balancer.as_ref().map_or(Mode::Standard, |balancer| balancer.mode),
            lane: if by_name { question.asked.port() } else { EVERY_PORT },
            reachable: Reach::of_client(question.client, question.asked.ip()),
        }
    }

    /// How many scopes must be shared, best first.
    fn ranks(&self) -> impl Iterator<Item = usize> {
        let best = if self.mode == Mode::Standard { 0 } else { self.scopes.len() };
        (self.least_rank()..=best).rev()
    }

    fn least_rank(&self) -> usize {
        if self.mode == Mode::Strict { self.scopes.len() } else { 0 }
    }

    fn reaches(&self) -> impl Iterator<Item = Reach> {
        Reach::ALL.into_iter().filter(|reach| reach.meets(self.reachable))
    }

    /// Where an entry lies as seen from those of this reach that share the client's network and first scopes.
    fn place(&self, entry: &Entry, reach: Reach, rank: usize) -> Ordering {
        #[cfg(test)]
        tests::count_comparison();
        let client = self.question.client;
        let head = entry.lane.cmp(&self.lane).then(entry.reach.cmp(&reach));
        let head = head.then_with(|| entry.endpoint.network.cmp(&client.network));
        head.then_with(|| by_scopes(&entry.endpoint, client, &self.scopes[..rank]))
    }
}

impl Entry {
    fn compare(&self, other: &Self, scopes: &[Scope]) -> Ordering {
        #[cfg(test)]
        tests::count_comparison();
        let (own, others) = (&self.endpoint, &other.endpoint);
        let head = self.lane.cmp(&other.lane).then(self.reach.cmp(&other.reach));
        let head = head.then_with(|| own.network.cmp(&others.network));
        head.then_with(|| by_scopes(own, others, scopes)).then_with(|| own.uid.cmp(&others.uid))
    }
}

fn by_scopes(a: &Workload, b: &Workload, scopes: &[Scope]) -> Ordering {
    scopes
        .iter()
        .map(|scope| scope.of(a).cmp(scope.of(b)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn scopes(service: &Service) -> &[Scope] {
    service.load_balancer.as_ref().map_or(&[], LoadBalancer::scopes)
}

/// What the endpoint is in the tree as; nothing if the service does not want it.
fn entries<'a>(service: &'a Service, endpoint: &'a Arc<Workload>) -> impl Iterator<Item = Entry> + use<'a> {
    let reach = Reach::of_endpoint(service, endpoint).filter(|_| service.wants(endpoint));
    let lanes = reach.map(|_| lanes(service, endpoint)).unwrap_or_default();
    reach.into_iter().flat_map(move |reach| {
        lanes.clone().into_iter().map(move |lane| Entry { lane, reach, endpoint: Arc::clone(endpoint) })
    })
}

fn lanes(service: &Service, endpoint: &Workload) -> SmallVec<[u16; 4]> {
    let own = endpoint.services.get(&service.key());
    let named = service.ports.iter().filter(|&(_, &target)| target == 0).map(|(&port, _)| port);
    let named = named.filter(|port| own.is_some_and(|own| own.contains_key(port)));
    std::iter::once(EVERY_PORT).chain(named).collect()
}
