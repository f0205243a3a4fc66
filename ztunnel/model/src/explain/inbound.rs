//! What the destination's node decides, and by which policies.

use std::{net::SocketAddr, sync::Arc};

use super::{Explanation, Mesh};
use crate::{
    ClientAddr, MtlsMode, Snapshot, SpiffeId, Workload,
    authorize::{Audit, InboundFacts, authorize_inbound},
    mtls::{MtlsLevel, mtls},
    policy::{Action, Attributes, Policy, Scope},
    settings::Regime,
    workload::{NetworkMode, Protocol},
};

/// Whether a proxy of the mesh stands before it.
pub(super) fn is_served(workload: &Workload) -> bool {
    why_not_served(workload).is_none()
}

pub(super) fn why_not_served(workload: &Workload) -> Option<String> {
    match (workload.protocol, workload.network_mode) {
        (Protocol::Tcp, _) => Some("it is not enrolled (protocol TCP)".to_owned()),
        (_, NetworkMode::HostNetwork) => Some("it shares its node's network".to_owned()),
        (Protocol::Hbone, NetworkMode::Standard) => None,
    }
}

pub(super) fn why_in_clear(snapshot: &Snapshot, destination: &Workload, target: SocketAddr) -> String {
    why_not_served(destination).unwrap_or_else(|| {
        let ruling = mtls(snapshot, destination, target.port(), None);
        format!("mutual TLS is disabled by the {}", level(&ruling.level))
    })
}

pub(super) fn explain(
    mesh: Mesh<'_>,
    mut told: Explanation,
    destination: &Arc<Workload>,
    peer: Option<&SpiffeId>,
    client: SocketAddr,
    target: SocketAddr,
) -> Explanation {
    let pod = mesh.pods.get(&destination.uid).copied();
    let ruling = mtls(mesh.snapshot, destination, target.port(), pod);
    told.say("mutual TLS", format!("{} by the {}", mode(ruling.mode), level(&ruling.level)));
    let domains = mesh.snapshot.trust_domains();
    let other_names = peer.map(|peer| domains.other_names(peer)).unwrap_or_default();
    let attributes = Attributes {
        peer,
        other_names: &other_names,
        source_ip: client.ip(),
        destination_ip: target.ip(),
        destination_port: target.port(),
    };
    told.tell_policies(mesh.snapshot, destination, &attributes);
    let facts = InboundFacts { client: ClientAddr(client), peer, target, mtls: pod };
    let verdict = authorize_inbound(mesh.snapshot, destination, &facts);
    match &verdict.audit {
        Some(Audit::Refused(refusal)) => {
            told.say("audit", format!("would be refused: {refusal} ({})", refusal.reason()));
        }
        Some(Audit::Allowed { .. }) => told.say("audit", "would be allowed".to_owned()),
        None => {}
    }
    match verdict.decision {
        Err(refusal) => told.refuse("decision", &refusal),
        Ok(allowed) => {
            let by = allowed.by.map_or("no policy forbids it".to_owned(), |by| format!("by policy {by}"));
            told.say("decision", format!("allowed, {by}"));
            let route = allowed.permit.route();
            if route.is_told {
                let says =
                    format!("at {}, which is told by the PROXY protocol who asks for {target}", route.target);
                told.say("application", says);
            } else if route.target != target {
                told.say(
                    "application",
                    format!("at {}, where it takes all that is tunnelled to it", route.target),
                );
            }
            told
        }
    }
}

impl Explanation {
    /// Those that match one by one, the others by number: there may be thousands.
    fn tell_policies(&mut self, snapshot: &Snapshot, workload: &Workload, attributes: &Attributes<'_>) {
        let mut others = 0;
        for policy in snapshot.policies().filter(|policy| applies(policy, workload)) {
            let matches =
                snapshot.compiled(&policy.key()).is_some_and(|compiled| compiled.matches(attributes));
            let unenforced = policy.unenforced();
            if !matches && unenforced.is_empty() {
                others += 1;
                continue;
            }
            let says = describe(policy, matches, &unenforced);
            self.say("policy", says);
        }
        for key in &workload.authorization_policies {
            if snapshot.policy(key).is_none() {
                self.say("policy", format!("{key} applies and is not in the mesh state"));
            }
        }
        if others > 0 {
            self.say("policy", format!("{others} more apply and do not match"));
        }
        if snapshot.settings().default_deny(&workload.namespace, Regime::Enforced) {
            self.say("policy", "without a policy that allows it, nobody connects (defaultDeny)".to_owned());
        }
    }
}

fn applies(policy: &Policy, workload: &Workload) -> bool {
    match policy.scope {
        Scope::Global => true,
        Scope::Namespace => *policy.namespace == *workload.namespace,
        Scope::WorkloadSelector => workload.authorization_policies.contains(&policy.key()),
    }
}

fn describe(policy: &Policy, matches: bool, unenforced: &[&str]) -> String {
    let action = match policy.action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
    };
    let dry_run = if policy.dry_run { ", dry run" } else { "" };
    let verb = if matches { "matches" } else { "does not match" };
    let in_doubt = if unenforced.is_empty() {
        String::new()
    } else {
        format!("; not enforced here: {}", unenforced.join(", "))
    };
    format!("{} ({action}{dry_run}) {verb}{in_doubt}", policy.key())
}

fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Disable => "disabled",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Strict => "strict",
    }
}

fn level(level: &MtlsLevel) -> String {
    match level {
        MtlsLevel::Port(port) => format!("workload's port {port}"),
        MtlsLevel::Workload => "workload".to_owned(),
        MtlsLevel::Service(key) => format!("service {key}"),
        MtlsLevel::Namespace => "namespace".to_owned(),
        MtlsLevel::Mesh => "mesh".to_owned(),
    }
}
