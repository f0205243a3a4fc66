//! The rules of a policy: with mistakes or without, never is more allowed than what is written and understood.

use std::{net::SocketAddr, path::Path};

use control::state_of;
use model::{
    ClientAddr, SpiffeId, TrustDomain, WorkloadUid,
    authorize::{InboundFacts, authorize_inbound},
    policy::{Action, Match, Policy, StringMatch},
};

struct Asked {
    peer: Option<SpiffeId>,
    client: SocketAddr,
    target: SocketAddr,
}

/// The text is what a policy says besides its name, scope and action.
pub fn policy(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let trust_domain: TrustDomain = "cluster.local".parse().expect("a trust domain");
    for action in ["Allow", "Deny"] {
        let text = format!(
            "workloads:\n- {{uid: w, namespace: a, workloadIps: [10.0.0.9], protocol: HBONE}}\n\
             policies:\n- name: p\n  namespace: a\n  scope: Global\n  action: {action}\n  {text}\n"
        );
        let Ok((snapshot, report)) = state_of(Path::new("state.yaml"), &text, &trust_domain) else {
            continue;
        };
        // What was fuzzed may have added more than rules.
        let (Some(policy), Some(workload)) =
            (snapshot.policy(&"a/p".parse().expect("a key")), snapshot.workload(&WorkloadUid::new("w")))
        else {
            continue;
        };
        if snapshot.policies().count() != 1 || policy.dry_run || !report.objects.contains_key("policies") {
            continue;
        }
        for asked in asked() {
            let Asked { peer, client, target } = &asked;
            let client = ClientAddr(*client);
            let facts = InboundFacts { client, peer: peer.as_ref(), target: *target, mtls: None };
            let allowed = authorize_inbound(&snapshot, workload, &facts).decision.is_ok();
            let expected = match policy.action {
                Action::Allow => allows(policy, &asked),
                Action::Deny => !denies(policy, &asked),
            };
            assert_eq!(allowed, expected, "{policy:?}");
        }
        round_trip(policy, &trust_domain);
    }
}

/// What a dump shows of a policy means the same when it is read.
fn round_trip(policy: &Policy, trust_domain: &TrustDomain) {
    if policy.rules.iter().flatten().flatten().any(|m| !m.not_understood.is_empty())
        || !policy.not_understood.is_empty()
    {
        return;
    }
    let text = serde_json::json!({ "policies": [policy] }).to_string();
    let (again, report) = state_of(Path::new("dump"), &text, trust_domain).expect("our own dump");
    assert_eq!(report.mistakes, [""; 0]);
    assert_eq!(again.policy(&policy.key()).map(|again| &**again), Some(policy));
}

fn asked() -> Vec<Asked> {
    let peers = ["spiffe://cluster.local/ns/a/sa/x", "spiffe://cluster.local/ns/b/sa/y"];
    let peers = [None, Some(peers[0]), Some(peers[1])];
    let mut asked = Vec::new();
    for peer in peers {
        for client in ["10.0.0.1:1", "192.0.2.7:1", "[fd01::1]:1"] {
            for port in [80, 443] {
                asked.push(Asked {
                    peer: peer.map(|id| id.parse().expect("an id")),
                    client: client.parse().expect("an address"),
                    target: SocketAddr::new("10.0.0.9".parse().expect("an address"), port),
                });
            }
        }
    }
    asked
}

/// A rule with anything in it that is not enforced allows nothing.
fn allows(policy: &Policy, asked: &Asked) -> bool {
    let whole = !policy.extensions.is_given() && policy.not_understood.is_empty();
    whole
        && policy.rules.iter().any(|rule| {
            let whole = rule.iter().flatten().all(|m| m.unenforced().next().is_none());
            whole && rule.iter().all(|clause| clause.is_empty() || clause.iter().any(|m| holds(m, asked)))
        })
}

/// What is not enforced may have been meant for whoever asks.
fn denies(policy: &Policy, asked: &Asked) -> bool {
    if policy.rules.is_empty() {
        return !policy.not_understood.is_empty();
    }
    policy
        .rules
        .iter()
        .any(|rule| rule.iter().all(|clause| clause.is_empty() || clause.iter().any(|m| holds(m, asked))))
}

fn holds(m: &Match, asked: &Asked) -> bool {
    let id = asked.peer.as_ref();
    let says = |text: Option<&str>| {
        let text = text.map(str::to_owned);
        move |m: &StringMatch| match (m, &text) {
            (_, None) => false,
            (StringMatch::Exact(exact), Some(text)) => text == exact,
            (StringMatch::Prefix(prefix), Some(text)) => text.starts_with(prefix.as_str()),
            (StringMatch::Suffix(suffix), Some(text)) => text.ends_with(suffix.as_str()),
            (StringMatch::Presence, Some(text)) => !text.is_empty(),
        }
    };
    let namespace = says(id.map(SpiffeId::namespace));
    // Whether or not it is spelled out, the scheme is not compared.
    let principal = |m: &StringMatch| {
        let bare = |text: &String| text.strip_prefix("spiffe://").unwrap_or(text).to_owned();
        let m = match m {
            StringMatch::Exact(text) => StringMatch::Exact(bare(text)),
            StringMatch::Prefix(text) => StringMatch::Prefix(bare(text)),
            other => other.clone(),
        };
        says(id.map(SpiffeId::principal))(&m)
    };
    let account = |m: &model::policy::ServiceAccountMatch| {
        id.is_some_and(|id| id.namespace() == m.namespace && id.service_account() == m.service_account)
    };
    let (source, target) = (asked.client.ip(), asked.target);
    let mut known = false;
    let mut all = true;
    let mut field = |given: bool, holds: bool| {
        known |= given;
        all &= !given || holds;
    };
    field(!m.namespaces.is_empty(), m.namespaces.iter().any(&namespace));
    field(!m.not_namespaces.is_empty(), !m.not_namespaces.iter().any(&namespace));
    field(!m.principals.is_empty(), m.principals.iter().any(principal));
    field(!m.not_principals.is_empty(), !m.not_principals.iter().any(principal));
    field(!m.service_accounts.is_empty(), m.service_accounts.iter().any(account));
    field(!m.not_service_accounts.is_empty(), !m.not_service_accounts.iter().any(account));
    field(!m.source_ips.is_empty(), m.source_ips.iter().any(|net| net.contains(&source)));
    field(!m.not_source_ips.is_empty(), !m.not_source_ips.iter().any(|net| net.contains(&source)));
    field(!m.destination_ips.is_empty(), m.destination_ips.iter().any(|net| net.contains(&target.ip())));
    field(
        !m.not_destination_ips.is_empty(),
        !m.not_destination_ips.iter().any(|net| net.contains(&target.ip())),
    );
    field(!m.destination_ports.is_empty(), m.destination_ports.contains(&target.port()));
    field(!m.not_destination_ports.is_empty(), !m.not_destination_ports.contains(&target.port()));
    all && (known || m.unenforced().next().is_some())
}
