//! Delta ADS as a pure state machine: what to ask for when a stream opens, and what to answer to each response.
//!
//! It outlives streams: what was accepted on one is what the next begins with. Every response is acknowledged or refused
//! under its own nonce, whatever came before it, so neither gaps nor repetitions confuse it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use model::Snapshot;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};

use super::{
    holding::{Effect, Holding},
    kind::Kind,
};

/// google.rpc.Code
const INVALID_ARGUMENT: i32 = 3;
/// A control plane that is wrong about everything is told so in few words.
const TOLD: usize = 20;
const TOLD_BYTES: usize = 4096;
/// Names of rejected resources that are remembered, for metrics and status.
const REMEMBERED: usize = 100;
/// Bytes of names and versions in one request, well below the 4 MiB that gRPC servers take by default.
const REQUEST_BYTES: usize = 3 << 20;
/// What a name or a version takes besides its own bytes, at most: keys and lengths.
const OVERHEAD: usize = 16;
/// Everything.
const WILDCARD: &str = "*";

pub(super) struct Protocol {
    node: Node,
    on_demand: bool,
    pub(super) holding: Holding,
    /// What is subscribed to by name; only on demand.
    wanted: BTreeSet<String>,
    /// Which types have been answered, ever.
    answered: BTreeSet<Kind>,
    /// Resources that were sent and cannot be used, as they were sent last.
    rejected: BTreeMap<(Kind, String), String>,
    /// Addresses that are held and that this stream's first request had no room for. The control plane sends those that
    /// there are, and does not know that it should speak of those that are gone.
    untold: Untold,
}

#[derive(Default)]
struct Untold {
    names: HashSet<String>,
    /// Whether the stream's first response has come,
    heard: bool,
    /// and whether it had when this was last asked.
    due: bool,
}

impl Untold {
    fn heard(&mut self, response: &DeltaDiscoveryResponse) {
        self.heard = true;
        if !self.names.is_empty() {
            response.resources.iter().for_each(|resource| _ = self.names.remove(&resource.name));
        }
    }

    /// What nobody has spoken of for all the time between two questions, since the stream's first response.
    fn take(&mut self) -> HashSet<String> {
        let is_due = std::mem::replace(&mut self.due, self.heard);
        if is_due { std::mem::take(&mut self.names) } else { HashSet::new() }
    }
}

/// What follows from a response.
#[derive(Debug, PartialEq)]
pub(super) struct Reaction {
    pub(super) kind: Option<Kind>,
    pub(super) effect: Effect,
    /// `None` for a response that has no nonce to answer to.
    pub(super) reply: Option<DeltaDiscoveryRequest>,
}

impl Protocol {
    pub(super) fn new(node: Node, on_demand: bool, holding: Holding) -> Self {
        Self {
            node,
            on_demand,
            holding,
            wanted: BTreeSet::new(),
            answered: BTreeSet::new(),
            rejected: BTreeMap::new(),
            untold: Untold::default(),
        }
    }

    /// The first requests of a new stream, one of each type; then what did not fit into them.
    pub(super) fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut later = Vec::new();
        let mut requests: Vec<_> = Kind::ALL.into_iter().map(|kind| self.first(kind, &mut later)).collect();
        requests.extend(later);
        requests
    }

    fn first(&mut self, kind: Kind, later: &mut Vec<DeltaDiscoveryRequest>) -> DeltaDiscoveryRequest {
        let mut request = DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: self.holding.versions(kind),
            ..DeltaDiscoveryRequest::default()
        };
        let held: BTreeSet<String> = request.initial_resource_versions.keys().cloned().collect();
        let by_name = self.on_demand && kind == Kind::Address;
        // What is left out is only sent again. What is asked for by name needs the other half.
        let mut room = if by_name { REQUEST_BYTES / 2 } else { REQUEST_BYTES };
        request.initial_resource_versions.retain(|name, version| take(&mut room, name.len() + version.len()));
        if kind == Kind::Address && !by_name {
            let is_untold = |name: &String| !request.initial_resource_versions.contains_key(name);
            let names = held.iter().filter(|name| is_untold(name)).cloned().collect();
            self.untold = Untold { names, ..Untold::default() };
        }
        // Without any name it would ask for everything, so what is asked for and given up at once is everything.
        // What came along with what was asked for shall be kept up to date too.
        if by_name {
            let names = self.wanted.iter().cloned().chain(held.difference(&self.wanted).cloned());
            let mut portions = portions(names).into_iter();
            request.resource_names_subscribe =
                [WILDCARD.to_owned()].into_iter().chain(portions.next().into_iter().flatten()).collect();
            request.resource_names_unsubscribe = vec![WILDCARD.to_owned()];
            later.extend(portions.map(|names| subscription(names, Vec::new())));
        }
        request
    }

    /// Changes what is subscribed to by name. What is asked for again is answered again.
    pub(super) fn subscribe(
        &mut self,
        wanted: impl IntoIterator<Item = String>,
        unwanted: impl IntoIterator<Item = String>,
    ) -> Vec<DeltaDiscoveryRequest> {
        let new: Vec<_> = wanted.into_iter().collect();
        self.wanted.extend(new.iter().cloned());
        let old: Vec<_> = unwanted.into_iter().collect();
        old.iter().for_each(|name| _ = self.wanted.remove(name));
        let (mut new, mut old) = (portions(new).into_iter(), portions(old).into_iter());
        std::iter::from_fn(|| match (new.next(), old.next()) {
            (None, None) => None,
            (new, old) => Some(subscription(new.unwrap_or_default(), old.unwrap_or_default())),
        })
        .collect()
    }

    /// Puts what is good of a response in force. One bad resource costs the others nothing.
    pub(super) fn receive(&mut self, response: &DeltaDiscoveryResponse, snapshot: &mut Snapshot) -> Reaction {
        let kind = Kind::of(&response.type_url);
        let (effect, error) = match kind {
            Some(kind) => {
                let effect = self.holding.apply(kind, response, snapshot);
                self.remember(kind, response, &effect);
                self.answered.insert(kind);
                if kind == Kind::Address {
                    self.untold.heard(response);
                }
                let error = (!effect.rejected.is_empty()).then(|| told(&effect.rejected));
                (effect, error)
            }
            None => (Effect::default(), Some("this type was not asked for".to_owned())),
        };
        let reply = (!response.nonce.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|message| Status { code: INVALID_ARGUMENT, message }),
            ..DeltaDiscoveryRequest::default()
        });
        Reaction { kind, effect, reply }
    }

    /// To be asked at long intervals: takes what this stream should have spoken of by now, had it not gone since the last
    /// one. Whether anything has.
    pub(super) fn forget_untold(&mut self, snapshot: &mut Snapshot) -> bool {
        let gone = self.untold.take();
        gone.iter().filter(|name| self.holding.remove(Kind::Address, name, snapshot)).count() > 0
    }

    fn remember(&mut self, kind: Kind, response: &DeltaDiscoveryResponse, effect: &Effect) {
        if !self.rejected.is_empty() {
            let named = response.resources.iter().map(|resource| &resource.name);
            for name in named.chain(&response.removed_resources) {
                self.rejected.remove(&(kind, name.clone()));
            }
        }
        for (name, reason) in &effect.rejected {
            if self.rejected.len() < REMEMBERED {
                self.rejected.insert((kind, name.clone()), reason.clone());
            }
        }
    }

    /// The types that nothing has been heard of yet.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| !self.answered.contains(kind))
    }

    pub(super) fn rejected(&self) -> &BTreeMap<(Kind, String), String> {
        &self.rejected
    }
}

fn subscription(new: Vec<String>, old: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: Kind::Address.type_url().to_owned(),
        resource_names_subscribe: new,
        resource_names_unsubscribe: old,
        ..DeltaDiscoveryRequest::default()
    }
}

fn take(room: &mut usize, bytes: usize) -> bool {
    let left = room.checked_sub(bytes + OVERHEAD);
    *room = left.unwrap_or(*room);
    left.is_some()
}

/// Of which two, or one and as many bytes of versions, fit into a request.
fn portions(names: impl IntoIterator<Item = String>) -> Vec<Vec<String>> {
    let (mut portions, mut room) = (Vec::<Vec<String>>::new(), 0);
    for name in names {
        let fits = take(&mut room, name.len());
        match portions.last_mut().filter(|_| fits) {
            Some(portion) => portion.push(name),
            None => {
                room = (REQUEST_BYTES / 2).saturating_sub(name.len() + OVERHEAD);
                portions.push(vec![name]);
            }
        }
    }
    portions
}

fn told(rejected: &[(String, String)]) -> String {
    let mut message = String::new();
    for (name, reason) in rejected.iter().take(TOLD) {
        let separator = if message.is_empty() { "" } else { "; " };
        message.push_str(&format!("{separator}{name}: {reason}"));
    }
    if rejected.len() > TOLD {
        message.push_str(&format!("; and {} more", rejected.len() - TOLD));
    }
    if message.len() > TOLD_BYTES {
        let end = (0..=TOLD_BYTES).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
    }
    message
}
