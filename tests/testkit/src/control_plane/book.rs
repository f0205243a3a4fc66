//! What the control plane knows, and whom it tells.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    prost::Message,
    security::Authorization,
    tonic::Status,
};
use tokio::sync::mpsc::UnboundedSender;

use super::Conduct;

pub(super) type Outgoing = UnboundedSender<Result<DeltaDiscoveryResponse, Status>>;

const WILDCARD: &str = "*";

/// A resource, whatever is in it.
#[derive(Clone, Debug)]
pub struct Known {
    pub type_url: String,
    pub name: String,
    /// Other names it may be asked for by.
    pub aliases: Vec<String>,
    pub value: Vec<u8>,
}

impl Known {
    pub fn policy(policy: &Authorization) -> Self {
        let name = format!("{}/{}", policy.namespace, policy.name);
        Self {
            type_url: AUTHORIZATION_TYPE.to_owned(),
            name,
            aliases: Vec::new(),
            value: policy.encode_to_vec(),
        }
    }

    pub fn address(name: &str, aliases: Vec<String>, value: Vec<u8>) -> Self {
        Self { type_url: ADDRESS_TYPE.to_owned(), name: name.to_owned(), aliases, value }
    }
}

#[derive(Default)]
pub(super) struct Book {
    known: BTreeMap<(String, String), (u64, Known)>,
    streams: BTreeMap<u64, Stream>,
    pub(super) requests: Vec<DeltaDiscoveryRequest>,
    pub(super) conduct: Conduct,
    pub(super) token: Option<String>,
    count: u64,
}

struct Stream {
    outgoing: Outgoing,
    /// Types that everything is wanted of.
    everything: BTreeSet<String>,
    names: BTreeSet<String>,
    begun: BTreeSet<String>,
}

impl Stream {
    fn wants(&self, known: &Known) -> bool {
        self.everything.contains(&known.type_url)
            || (self.begun.contains(&known.type_url)
                && std::iter::once(&known.name).chain(&known.aliases).any(|name| self.names.contains(name)))
    }
}

impl Book {
    pub(super) fn open(&mut self, outgoing: Outgoing) -> u64 {
        self.count += 1;
        let (everything, names, begun) = Default::default();
        self.streams.insert(self.count, Stream { outgoing, everything, names, begun });
        self.count
    }

    pub(super) fn close(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    pub(super) fn forget_streams(&mut self) {
        self.streams.clear();
    }

    pub(super) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn put(&mut self, all: Vec<Known>) {
        let types: BTreeSet<String> = all.iter().map(|known| known.type_url.clone()).collect();
        let keys: Vec<_> = all.iter().map(|known| (known.type_url.clone(), known.name.clone())).collect();
        for known in all {
            self.count += 1;
            self.known.insert((known.type_url.clone(), known.name.clone()), (self.count, known));
        }
        for type_url in types {
            let changed: Vec<_> = keys
                .iter()
                .filter(|key| key.0 == type_url)
                .filter_map(|key| self.known.get(key))
                .cloned()
                .collect();
            self.tell(&type_url, &changed, &[]);
        }
    }

    pub(super) fn remove(&mut self, type_url: &str, name: &str) {
        self.known.remove(&(type_url.to_owned(), name.to_owned()));
        self.tell(type_url, &[], &[name.to_owned()]);
    }

    pub(super) fn replace(&mut self, addresses: Vec<Known>) {
        let kept: BTreeSet<&String> = addresses.iter().map(|known| &known.name).collect();
        let is_gone = |key: &&(String, String)| key.0 == ADDRESS_TYPE && !kept.contains(&key.1);
        let gone: Vec<_> = self.known.keys().filter(is_gone).map(|(_, name)| name.clone()).collect();
        gone.iter().for_each(|name| self.remove(ADDRESS_TYPE, name));
        self.put(addresses);
    }

    fn tell(&mut self, type_url: &str, changed: &[(u64, Known)], removed: &[String]) {
        for stream in self.streams.values() {
            let wanted: Vec<_> = changed.iter().filter(|(_, known)| stream.wants(known)).cloned().collect();
            let is_wanted =
                |name: &&String| stream.everything.contains(type_url) || stream.names.contains(*name);
            let gone: Vec<_> = removed.iter().filter(is_wanted).cloned().collect();
            if !wanted.is_empty() || !gone.is_empty() {
                self.count += 1;
                let _ = stream.outgoing.send(Ok(response(type_url, self.count, &wanted, gone)));
            }
        }
    }

    pub(super) fn send(&self, response: &DeltaDiscoveryResponse) {
        for stream in self.streams.values() {
            let _ = stream.outgoing.send(Ok(response.clone()));
        }
    }

    /// Answers a request as its stream asks, unless it only acknowledges.
    pub(super) fn receive(&mut self, number: u64, request: DeltaDiscoveryRequest) {
        self.requests.push(request.clone());
        let (known, count) = (&self.known, &mut self.count);
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let type_url = request.type_url.clone();
        let is_first = stream.begun.insert(type_url.clone());
        if is_first && request.resource_names_subscribe.is_empty() {
            stream.everything.insert(type_url.clone());
        }
        let asked: Vec<String> =
            request.resource_names_subscribe.into_iter().filter(|name| name != WILDCARD).collect();
        stream.names.extend(asked.iter().cloned());
        for name in &request.resource_names_unsubscribe {
            stream.names.remove(name);
        }
        if self.conduct == Conduct::Silent || (!is_first && asked.is_empty()) {
            return;
        }
        let has = &request.initial_resource_versions;
        let of_type = || known.values().filter(|(_, known)| known.type_url == type_url);
        let is_named = |known: &Known| {
            std::iter::once(&known.name).chain(&known.aliases).any(|name| asked.contains(name))
        };
        // What is named after another comes along with it, as the endpoints of a service do.
        let wanted: Vec<_> = of_type()
            .filter(|(version, known)| {
                (stream.everything.contains(&type_url) || is_named(known))
                    && has.get(&known.name) != Some(&version.to_string())
            })
            .cloned()
            .collect();
        stream.names.extend(wanted.iter().map(|(_, known)| known.name.clone()));
        let exists =
            |name: &String| of_type().any(|(_, known)| known.name == *name || known.aliases.contains(name));
        let mut gone: Vec<String> =
            asked.iter().chain(has.keys()).filter(|name| !exists(name)).cloned().collect();
        gone.sort();
        gone.dedup();
        *count += 1;
        let _ = stream.outgoing.send(Ok(response(&type_url, *count, &wanted, gone)));
    }
}

fn response(
    type_url: &str,
    nonce: u64,
    resources: &[(u64, Known)],
    removed_resources: Vec<String>,
) -> DeltaDiscoveryResponse {
    let resource = |(version, known): &(u64, Known)| Resource {
        version: version.to_string(),
        resource: Some(Any { type_url: known.type_url.clone(), value: known.value.clone().into() }),
        name: known.name.clone(),
        aliases: known.aliases.clone(),
    };
    DeltaDiscoveryResponse {
        system_version_info: nonce.to_string(),
        resources: resources.iter().map(resource).collect(),
        type_url: type_url.to_owned(),
        nonce: format!("n-{nonce}"),
        removed_resources,
    }
}
