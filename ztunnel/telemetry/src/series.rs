//! Istio's connection metrics: their labels, and one set of counter handles per set of labels.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Label, SharedString, counter};
use model::{Role, SpiffeId, Workload, service::Service};

use crate::{
    Proof, ResponseFlags,
    account::{Facts, reporter},
    cache::Cache,
    metrics::names,
};

const UNKNOWN: &str = "unknown";

/// The counters of all connections that share their labels.
#[derive(Debug)]
pub(crate) struct Series {
    labels: Vec<Label>,
    /// Keeps alive what the cache knows by address alone, so that an address is never taken by another.
    _facts: Facts,
    pub(crate) opened: Counter,
    pub(crate) received: OnceLock<Counter>,
    pub(crate) sent: OnceLock<Counter>,
    closed: [OnceLock<Counter>; ResponseFlags::ALL.len()],
    failed: [OnceLock<Counter>; ResponseFlags::ALL.len()],
}

impl Series {
    fn new(role: Role, facts: Facts) -> Self {
        let labels = labels(role, &facts);
        let opened = counter!(names::OPENED, with_flags(&labels, ResponseFlags::None));
        Self {
            labels,
            _facts: facts,
            opened,
            received: OnceLock::new(),
            sent: OnceLock::new(),
            closed: Default::default(),
            failed: Default::default(),
        }
    }

    /// A connection that never stood shows no bytes, not zero bytes.
    pub(crate) fn start_bytes(&self) {
        self.received.get_or_init(|| self.counter(names::RECEIVED, ResponseFlags::None));
        self.sent.get_or_init(|| self.counter(names::SENT, ResponseFlags::None));
    }

    pub(crate) fn closed(&self, flags: ResponseFlags) -> &Counter {
        self.closed[flags as usize].get_or_init(|| self.counter(names::CLOSED, flags))
    }

    pub(crate) fn failed(&self, flags: ResponseFlags) -> &Counter {
        self.failed[flags as usize].get_or_init(|| self.counter(names::FAILED, flags))
    }

    fn counter(&self, name: &'static str, flags: ResponseFlags) -> Counter {
        counter!(name, with_flags(&self.labels, flags))
    }
}

/// Formats labels once per set, not once per connection.
#[derive(Default)]
pub(crate) struct SeriesCache(Cache<Key, Arc<Series>>);

/// Snapshots share what did not change, so the same workload is nearly always the same allocation.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    role: Role,
    source: Option<usize>,
    destination: Option<usize>,
    service: Option<usize>,
    identities: Option<(SpiffeId, SpiffeId)>,
    proof: Proof,
}

impl Key {
    fn new(role: Role, facts: &Facts) -> Self {
        Self {
            role,
            source: facts.source.as_ref().map(address),
            destination: facts.destination.as_ref().map(address),
            service: facts.service.as_ref().map(address),
            identities: facts.identities.clone(),
            proof: facts.proof,
        }
    }
}

fn address<T>(shared: &Arc<T>) -> usize {
    Arc::as_ptr(shared).addr()
}

impl SeriesCache {
    pub(crate) fn of(&self, role: Role, facts: Facts) -> Arc<Series> {
        self.0.get_or(Key::new(role, &facts), || Arc::new(Series::new(role, facts)))
    }

    pub(crate) fn sweep(&self) {
        self.0.sweep();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn with_flags(labels: &[Label], flags: ResponseFlags) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::from_static_parts("response_flags", flags.as_str()));
    labels
}

/// All of Istio's labels but `response_flags`, which differs from counter to counter of a series.
fn labels(role: Role, facts: &Facts) -> Vec<Label> {
    let (source_principal, destination_principal) = match &facts.identities {
        Some((source, destination)) => (Some(source), Some(destination)),
        // Istio names the destination's identity from the state; a source without proof has none.
        None => (None, facts.destination.as_deref().map(|workload| &workload.identity)),
    };
    let security = facts.identities.as_ref().map_or(UNKNOWN, |_| facts.proof.security_policy());
    let mut labels = Vec::with_capacity(27);
    labels.push(Label::from_static_parts("reporter", reporter(role)));
    labels.extend(party(&SOURCE, facts.source.as_deref(), source_principal));
    labels.extend(destination_service(facts.service.as_deref()));
    labels.extend(party(&DESTINATION, facts.destination.as_deref(), destination_principal));
    labels.push(Label::from_static_parts("request_protocol", "tcp"));
    labels.push(Label::from_static_parts("connection_security_policy", security));
    labels
}

struct PartyLabels([&'static str; 10]);

const SOURCE: PartyLabels = PartyLabels([
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_region",
    "source_zone",
]);

const DESTINATION: PartyLabels = PartyLabels([
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_region",
    "destination_zone",
]);

fn party(
    names: &'static PartyLabels,
    workload: Option<&Workload>,
    principal: Option<&SpiffeId>,
) -> impl Iterator<Item = Label> {
    let text = |field: fn(&Workload) -> &str| known(workload.map_or("", field));
    // A peer that proved an identity we know no workload for still has that identity's namespace.
    let namespace = workload.map(|w| &*w.namespace).or(principal.map(SpiffeId::namespace));
    let values = [
        text(|w| &w.workload_name),
        text(|w| &w.canonical_name),
        text(|w| &w.canonical_revision),
        known(namespace.unwrap_or_default()),
        principal.map_or(UNKNOWN.into(), |principal| principal.to_string().into()),
        text(|w| &w.canonical_name),
        text(|w| &w.canonical_revision),
        text(|w| &w.cluster_id),
        text(|w| &w.locality.region),
        text(|w| &w.locality.zone),
    ];
    names.0.into_iter().zip(values).map(|(name, value)| Label::new(name, value))
}

fn destination_service(service: Option<&Service>) -> [Label; 3] {
    let text = |field: fn(&Service) -> &str| known(service.map_or("", field));
    [
        Label::new("destination_service", text(|s| &s.hostname)),
        Label::new("destination_service_namespace", text(|s| &s.namespace)),
        Label::new("destination_service_name", text(|s| &s.name)),
    ]
}

fn known(text: &str) -> SharedString {
    if text.is_empty() { UNKNOWN.into() } else { text.to_owned().into() }
}
