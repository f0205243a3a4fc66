//! What becomes of a connection and why, step by step, for people. The decisions are those of [`crate::resolve`] and
//! [`crate::authorize`] themselves; nothing is decided here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

use crate::{
    MtlsMode, Network, NetworkAddress, OriginalDst, PassthroughRoute, Refusal, Route, Snapshot, TunnelRoute,
    Workload, WorkloadUid,
    authorize::{OutboundPermit, authorize_outbound},
    resolve::{Choice, Pick, Resolved, Way, resolve},
};

mod inbound;
mod names;
mod neighbourhood;
mod outsider;
#[cfg(test)]
mod tests;

pub use names::{Destination, NotFound, find_destination, find_source};
pub use neighbourhood::Neighbourhood;
use neighbourhood::Way as NodeWay;
use outsider::Outsider;

/// Who connects.
#[derive(Clone, Debug)]
pub enum Source {
    Workload(Arc<Workload>),
    /// An address that is no workload's.
    Stranger(IpAddr),
}

/// A mesh, and what its nodes ask for single pods besides.
#[derive(Clone, Copy, Debug)]
pub struct Mesh<'a> {
    pub snapshot: &'a Snapshot,
    pub pods: &'a BTreeMap<WorkloadUid, MtlsMode>,
    /// If a daemon is asked: it knows who goes past the network.
    pub neighbourhood: Option<&'a Neighbourhood>,
}

/// One connection that may be made: to one of the endpoints, where there are several.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub steps: Vec<Step>,
    /// Whether the two ends prove who they are; `None` where that is not known here, or nothing leaves the pod.
    pub mutual_tls: Option<bool>,
    /// Past the network, from one pod of a node to another: proven by enrolment, without TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<WorkloadUid>,
    /// Where this way leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<WorkloadUid>,
    /// The word of the refusal.
    pub refused: Option<&'static str>,
    /// Why it is not decided here. The connection is allowed if it is neither refused nor undecided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub topic: &'static str,
    pub says: String,
}

/// Endpoints beyond these are not explained one by one.
const MAX_ENDPOINTS: usize = 100;

/// How a connection from `source` to `destination` would fare, for each endpoint that it may be led to.
pub fn explain(mesh: Mesh<'_>, source: &Source, destination: SocketAddr) -> Vec<Explanation> {
    let client = match source {
        Source::Workload(client) => client,
        Source::Stranger(ip) => return outsider::explain(mesh, &Outsider::Stranger(*ip), destination),
    };
    if let Some(why) = why_not_taken(mesh, client) {
        return outsider::explain(mesh, &Outsider::Known(client, why), destination);
    }
    let mut explanations = Vec::new();
    let mut tried: Vec<WorkloadUid> = Vec::new();
    loop {
        let choice = Choice { tried: &tried, ..Choice::of(0) };
        let answer = resolve(mesh.snapshot, client, OriginalDst(destination), &choice);
        if answer.is_err() && !tried.is_empty() {
            return explanations;
        }
        let pick = answer.as_ref().ok().and_then(|resolved| resolved.pick.clone());
        explanations.push(one(mesh, client, destination, answer));
        match pick {
            Some(Pick { endpoint, alternatives: true, .. }) if tried.len() + 1 < MAX_ENDPOINTS => {
                tried.push(endpoint);
            }
            _ => return explanations,
        }
    }
}

/// The same, by the names that people write for the two ends.
pub fn explain_named(mesh: Mesh<'_>, source: &str, destination: &str) -> Result<Vec<Explanation>, NotFound> {
    let source = find_source(mesh.snapshot, source)?;
    let found = find_destination(mesh.snapshot, &source, destination)?;
    let addresses = found.addresses.iter().take(MAX_ENDPOINTS);
    let told: Vec<_> =
        addresses.flat_map(|&address| explain(mesh, &source, address)).take(MAX_ENDPOINTS).collect();
    if told.is_empty() { Err(NotFound::Endpoint(destination.to_owned())) } else { Ok(told) }
}

fn one(
    mesh: Mesh<'_>,
    client: &Arc<Workload>,
    destination: SocketAddr,
    answer: Result<Resolved, Refusal>,
) -> Explanation {
    let mut told = Explanation { source: Some(client.uid.clone()), ..Explanation::default() };
    told.say("source", format!("{}, identity {}", client.uid, client.identity));
    let resolved = match answer {
        Ok(resolved) => resolved,
        Err(refusal) => return told.refuse("destination", &refusal),
    };
    let route = match resolved.way {
        Way::Route(route) => route,
        Way::ByName(named) => {
            let (host, to) = (named.hostname(), &named.destination().uid);
            told.destination = Some(to.clone());
            told.say(
                "destination",
                format!("{destination} leads to {to}, whose address is what DNS says of {host}"),
            );
            told.say("path", "depends on that address, which is not known here".to_owned());
            return Explanation { undecided: Some("address_not_known"), ..told };
        }
    };
    told.tell_destination(destination, &route);
    match authorize_outbound(mesh.snapshot, client, route) {
        Err(refusal) => told.refuse("source's node", &refusal),
        Ok(OutboundPermit::Tunnel(permit)) => tunnelled(mesh, told, client, permit.route()),
        Ok(OutboundPermit::Passthrough(permit)) => in_clear(mesh, told, client, permit.route()),
    }
}

fn tunnelled(
    mesh: Mesh<'_>,
    mut told: Explanation,
    client: &Arc<Workload>,
    route: &TunnelRoute,
) -> Explanation {
    let neighbours = neighbourhood::way(mesh.neighbourhood, client, route);
    told.direct = matches!(neighbours, Some(NodeWay::Direct(_)));
    told.mutual_tls = Some(!told.direct);
    if !told.direct {
        let expected: Vec<_> = route.expected.iter().map(ToString::to_string).collect();
        let way = format!("mutual TLS to {}, which must prove {}", route.gateway, expected.join(" or "));
        told.say("path", way);
    }
    if route.gateway.ip() != route.authority.ip() {
        let asked = route.authority;
        told.say(
            "waypoint",
            format!("the proxy at {} decides what becomes of {asked} from there", route.gateway),
        );
        return Explanation { undecided: Some("waypoint_decides"), ..told };
    }
    match neighbours {
        Some(NodeWay::Direct(says)) => told.say("path", says),
        Some(NodeWay::Tunnel(says) | NodeWay::Unknown(says)) => told.say("same node", says),
        None => {}
    }
    let peer = Some(&client.identity);
    inbound::explain(
        mesh,
        told,
        &route.destination,
        peer,
        address_of(client, route.authority),
        route.authority,
    )
}

fn in_clear(
    mesh: Mesh<'_>,
    mut told: Explanation,
    client: &Arc<Workload>,
    route: &PassthroughRoute,
) -> Explanation {
    told.mutual_tls = Some(false);
    let Some(destination) = &route.destination else {
        told.say("path", format!("plaintext to {}, as the application sent it", route.target));
        return told;
    };
    if destination.uid == client.uid {
        told.mutual_tls = None;
        told.say("path", "the pod reaches itself; nothing leaves it".to_owned());
        return told;
    }
    let why = inbound::why_in_clear(mesh.snapshot, destination, route.target);
    told.say("path", format!("plaintext to {}: {why}", route.target));
    if !inbound::is_served(destination) {
        told.say("destination's node", "no proxy of the mesh decides there".to_owned());
        return told;
    }
    inbound::explain(mesh, told, destination, None, address_of(client, route.target), route.target)
}

/// Why no proxy takes the connections of this workload, if none does.
fn why_not_taken(mesh: Mesh<'_>, client: &Workload) -> Option<String> {
    inbound::why_not_served(client).or_else(|| mesh.neighbourhood?.why_not_taken(client))
}

impl Explanation {
    pub fn is_allowed(&self) -> bool {
        self.refused.is_none() && self.undecided.is_none()
    }

    /// What somebody else knows of it, after the step that says who connects.
    pub fn note(&mut self, notes: &[Step]) {
        let place = self.steps.len().min(1);
        self.steps.splice(place..place, notes.iter().cloned());
    }

    fn say(&mut self, topic: &'static str, says: String) {
        self.steps.push(Step { topic, says });
    }

    fn refuse(mut self, topic: &'static str, refusal: &Refusal) -> Self {
        self.say(topic, format!("refused: {refusal} ({})", refusal.reason()));
        self.refused = Some(refusal.reason());
        self
    }

    fn tell_destination(&mut self, asked: SocketAddr, route: &Route) {
        let (workload, service, target) = match route {
            Route::Tunnel(route) => (Some(&route.destination), &route.service, route.authority),
            Route::Passthrough(route) => (route.destination.as_ref(), &route.service, route.target),
        };
        self.destination = workload.map(|workload| workload.uid.clone());
        let service =
            service.as_ref().map(|service| format!("service {}, ", service.key())).unwrap_or_default();
        let workload =
            workload.map_or("nobody the mesh knows".to_owned(), |workload| workload.uid.to_string());
        let at = if target == asked { String::new() } else { format!(" at {target}") };
        self.say("destination", format!("{asked} is {service}{workload}{at}"));
    }
}

/// The port is the kernel's choice and nothing that is decided on.
fn address_of(client: &Workload, like: SocketAddr) -> SocketAddr {
    let own = client.address_like(like.ip(), 0);
    own.or_else(|| client.workload_ips.first().map(|&ip| SocketAddr::new(ip, 0))).unwrap_or(like)
}

/// Whose address `ip` is, as seen from `network`.
fn workload_at<'a>(snapshot: &'a Snapshot, network: &Network, ip: IpAddr) -> Option<&'a Arc<Workload>> {
    snapshot.workload_at(&NetworkAddress { network: network.clone(), ip })
}
