//! `/explain`: what becomes of a connection and why, by the state in force, and what only this daemon knows of it.

use std::{
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use hyper::StatusCode;
use model::{
    Snapshot, WorkloadUid,
    explain::{Explanation, Mesh, Neighbourhood, Source, Step, explain_named, find_destination, find_source},
};
use telemetry::RecentRefusal;

use super::{
    super::{Admin, Answer, request::Request},
    refusals::seconds_ago,
};
use crate::{config::SameNode, explanation, table::span};

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let (Some(source), Some(destination)) = (request.parameter("source"), request.parameter("destination"))
    else {
        return Answer::bad_request("expected ?source=SRC&destination=DST[:PORT]\n");
    };
    let snapshot = admin.snapshot.load();
    let pods = admin.node.mtls_of_pods();
    let neighbourhood = neighbourhood(admin);
    let mesh = Mesh { snapshot: &snapshot, pods: &pods, neighbourhood: Some(&neighbourhood) };
    let mut told = match explain_named(mesh, source, destination) {
        Ok(told) => told,
        Err(error) => return Answer::text(StatusCode::NOT_FOUND, format!("{error}\n")),
    };
    let witness = Witness::new(admin, &snapshot, source, destination);
    for explanation in &mut told {
        let notes = witness.notes(explanation);
        explanation.note(&notes);
    }
    match (request.text, serde_json::to_value(&told)) {
        (true, Ok(told)) => Answer::text(StatusCode::OK, explanation::text(&told)),
        _ => Answer::json(&told),
    }
}

fn neighbourhood(admin: &Admin) -> Neighbourhood {
    let tunnel = match admin.config.same_node {
        SameNode::Tunnel => Some("this daemon has `sameNode: tunnel`"),
        SameNode::Direct if admin.node.drain.is_cancelled() => Some("this daemon drains"),
        SameNode::Direct => None,
    };
    Neighbourhood { node: admin.config.node_name.clone(), tunnel, pods: admin.node.served_addresses() }
}

/// What this daemon has seen itself.
struct Witness<'a> {
    admin: &'a Admin,
    snapshot: &'a Snapshot,
    /// Who connects, if that is nobody of the mesh.
    stranger: Option<IpAddr>,
    /// What was asked for, before a service is one of its endpoints.
    port: Option<u16>,
    refusals: Vec<RecentRefusal>,
}

impl<'a> Witness<'a> {
    fn new(admin: &'a Admin, snapshot: &'a Snapshot, source: &str, destination: &str) -> Self {
        let source = find_source(snapshot, source).ok();
        let found = source.as_ref().and_then(|source| find_destination(snapshot, source, destination).ok());
        let stranger = match source {
            Some(Source::Stranger(ip)) => Some(ip),
            _ => None,
        };
        let port = found.and_then(|found| found.addresses.first().map(SocketAddr::port));
        let refusals = admin.ledgers.refusals().list(SystemTime::now());
        Self { admin, snapshot, stranger, port, refusals }
    }

    fn notes(&self, explanation: &Explanation) -> Vec<Step> {
        let mut notes = Vec::new();
        if let Some(source) = &explanation.source {
            notes.push(Step { topic: "source's pod", says: self.pod(source, Side::Source) });
            notes.extend(self.certificate("source's SVID", source));
        }
        if let Some(destination) = &explanation.destination {
            notes.push(Step { topic: "destination's pod", says: self.pod(destination, Side::Destination) });
            notes.extend(self.certificate("destination's SVID", destination));
        }
        notes.extend(self.seen_lately(explanation));
        notes
    }

    fn pod(&self, uid: &WorkloadUid, side: Side) -> String {
        let (settings, problem) = self.admin.node.enrolment(uid);
        let problem = problem.map(|problem| format!("; problem: {problem}")).unwrap_or_default();
        let Some(settings) = settings else {
            let node = self.snapshot.workload(uid).map(|workload| &*workload.node).unwrap_or_default();
            let own = &self.admin.config.node_name;
            return match (problem.is_empty(), node == own || node.is_empty()) {
                (true, false) => format!("on node {node}; whether it is enrolled there, its daemon knows"),
                _ => format!("NOT enrolled on this node: {}{problem}", side.without_us()),
            };
        };
        let excluded = match side {
            Side::Source => &settings.exclude_outbound_ports,
            Side::Destination => &settings.exclude_inbound_ports,
        };
        match self.port {
            Some(port) if excluded.contains(&port) => {
                format!("enrolled here, but port {port} is excluded: {}{problem}", side.without_us())
            }
            _ => format!("enrolled here, {}{problem}", side.with_us()),
        }
    }

    fn certificate(&self, topic: &'static str, uid: &WorkloadUid) -> Option<Step> {
        let identity = &self.snapshot.workload(uid)?.identity;
        let statuses = self.admin.certificates.statuses();
        let status = statuses.into_iter().find(|status| status.identity == *identity)?;
        let mut says = format!("{:?}", status.state).to_lowercase();
        if let Some(left) = status.not_after.and_then(|at| at.duration_since(SystemTime::now()).ok()) {
            says.push_str(&format!(", expires in {}", span(left.as_secs())));
        }
        if let Some(error) = status.error {
            says.push_str(&format!("; {error}"));
        }
        Some(Step { topic, says })
    }

    /// What really became of such connections.
    fn seen_lately(&self, explanation: &Explanation) -> Option<Step> {
        let source = explanation.source.as_ref().and_then(|uid| self.snapshot.workload(uid));
        let identity = source.map(|workload| &workload.identity);
        let is_it = |refusal: &&RecentRefusal| {
            let from = match self.stranger {
                Some(ip) => refusal.client.is_some_and(|client| client.ip().to_canonical() == ip),
                None => match &refusal.source.workload {
                    Some(workload) => Some(workload) == explanation.source.as_ref(),
                    // Where the address is nobody's, TLS has said who it is.
                    None => identity.is_some() && refusal.source.identity.as_ref() == identity,
                },
            };
            from && refusal.destination.workload == explanation.destination
                && explanation.destination.is_some()
        };
        let last = self.refusals.iter().find(is_it)?;
        let by = last.policy.as_ref().map(|policy| format!(" by policy {policy}")).unwrap_or_default();
        let ago = seconds_ago(last.last_seen);
        let says = format!("{} refused or failed, the last {ago}: {}{by}", last.count, last.reason);
        Some(Step { topic: "seen lately", says })
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl Side {
    fn with_us(self) -> &'static str {
        match self {
            Self::Source => "so what it sends goes through this daemon",
            Self::Destination => "so what reaches it goes through this daemon",
        }
    }

    fn without_us(self) -> &'static str {
        match self {
            Self::Source => "what it sends there leaves in plaintext, past the mesh, whatever stands below",
            Self::Destination => "what reaches it there is not looked at by the mesh, whatever stands below",
        }
    }
}
