//! PeerAuthentications: strict mutual TLS as policies that deny whoever has no principal.

use std::collections::BTreeMap;

use kubernetes::policies::{MutualTls, MutualTlsMode, PeerAuthenticationSpec};
use proto::security::{Action, Authorization, Clause, Match, Rule, Scope};

use super::{Cluster, Verdict, matches::presence};
use crate::facts::{Labels, Policy, Spec, selects};

/// The names that istiod gives: no Kubernetes object can be called so.
pub(crate) const STATIC_STRICT: &str = "istio_converted_static_strict";
const CONVERTED: &str = "converted_peer_authentication_";

/// For every workload that is strict on all ports.
pub(crate) fn static_strict(cluster: &Cluster) -> Authorization {
    denial(
        cluster.root_namespace.clone(),
        STATIC_STRICT.to_owned(),
        vec![no_principal(Vec::new(), Vec::new())],
    )
}

/// The name of the policy of its own, if it needs one.
pub(crate) fn converted_name(policy: &str) -> String {
    format!("{CONVERTED}{policy}")
}

/// What its status tells.
pub(crate) fn peer_verdict(cluster: &Cluster, policy: &Policy) -> Verdict {
    let mut verdict = Verdict::default();
    match &policy.spec {
        Spec::Unreadable { problem, .. } => {
            verdict.wrong.push(format!("{problem}; until it can be read, mutual TLS is strict in its scope"));
        }
        Spec::PeerAuthentication(spec) => {
            verdict.wrong.extend(doubts(spec));
            let is_for_all = selector(spec).is_empty();
            if is_for_all && !spec.port_level_mtls.is_empty() {
                verdict.unenforced.push("portLevelMtls needs a selector".to_owned());
            }
            if !is_for_all && policy.key.0 == cluster.root_namespace {
                verdict.unenforced.push("a selector in the root namespace selects nobody".to_owned());
            }
        }
        Spec::Authorization(_) => {}
    }
    verdict
}

/// The policy of its own that one with ports of its own needs, given all that it inherits from.
pub(crate) fn converted(cluster: &Cluster, policy: &Policy, all: &[&Policy]) -> Option<Authorization> {
    let spec = workload_spec(cluster, policy)?;
    let inherited = inherited(cluster, &policy.key.0, all);
    let Decision::OwnPolicy(matches) = decide(spec, inherited) else { return None };
    let (namespace, name) = &policy.key;
    Some(denial(namespace.clone(), converted_name(name), matches))
}

/// The names of the policies that make a pod strict. `all` are those of its namespace and of the root namespace.
pub(crate) fn effective(cluster: &Cluster, namespace: &str, labels: &Labels, all: &[&Policy]) -> Vec<String> {
    let strict = || vec![format!("{}/{STATIC_STRICT}", cluster.root_namespace)];
    // Nobody knows what it wants: then all that it may be about is strict, whatever others say.
    if all.iter().any(|policy| is_doubtful_for(cluster, policy, namespace, labels)) {
        return strict();
    }
    let inherited = inherited(cluster, namespace, all);
    let own = all
        .iter()
        .filter(|policy| policy.key.0 == namespace)
        .filter(|policy| workload_spec(cluster, policy).is_some_and(|spec| selects(&selector(spec), labels)));
    let Some(policy) = own.min_by_key(|policy| (&policy.created, &policy.key)) else {
        return if inherited { strict() } else { Vec::new() };
    };
    match workload_spec(cluster, policy).map(|spec| decide(spec, inherited)) {
        Some(Decision::Strict) => strict(),
        Some(Decision::OwnPolicy(_)) => vec![format!("{namespace}/{}", converted_name(&policy.key.1))],
        Some(Decision::Permissive) | None => Vec::new(),
    }
}

/// What of it is not known or cannot be read.
fn doubts(spec: &PeerAuthenticationSpec) -> Vec<String> {
    let selector = spec.selector.iter().map(|selector| &selector.unknown);
    let modes = spec.mtls.iter().chain(spec.port_level_mtls.values()).map(|tls| &tls.unknown);
    let unknown = [&spec.unknown].into_iter().chain(selector).chain(modes).flat_map(BTreeMap::keys);
    let ports = spec.port_level_mtls.keys().filter(|port| port.parse::<u16>().is_err());
    let unknown = unknown.map(|name| format!("field {name} is not known"));
    unknown.chain(ports.map(|port| format!("`{port}` is not a port"))).collect()
}

fn is_doubtful_for(cluster: &Cluster, policy: &Policy, namespace: &str, labels: &Labels) -> bool {
    let wanted = match &policy.spec {
        Spec::PeerAuthentication(spec) if !doubts(spec).is_empty() => selector(spec),
        Spec::Unreadable { raw, .. } => {
            let labels = raw.pointer("/selector/matchLabels").cloned().unwrap_or_default();
            serde_json::from_value(labels).unwrap_or_default()
        }
        _ => return false,
    };
    let is_about = policy.key.0 == namespace || policy.key.0 == cluster.root_namespace && wanted.is_empty();
    is_about && selects(&wanted, labels)
}

/// What a policy with a selector makes of its workloads.
enum Decision {
    Permissive,
    Strict,
    /// Different by ports.
    OwnPolicy(Vec<Match>),
}

fn decide(spec: &PeerAuthenticationSpec, inherited: bool) -> Decision {
    let strict = strictness(spec.mtls.as_ref()).unwrap_or(inherited);
    // A port that says nothing is as the others are; one that is no number is no port.
    let ports: BTreeMap<u32, bool> = spec
        .port_level_mtls
        .iter()
        .filter_map(|(port, tls)| Some((port.parse::<u16>().ok()?.into(), strictness(Some(tls))?)))
        .filter(|(_, port_is_strict)| *port_is_strict != strict)
        .collect();
    let ports: Vec<u32> = ports.into_keys().collect();
    match (strict, ports.is_empty()) {
        (true, true) => Decision::Strict,
        (false, true) => Decision::Permissive,
        (true, false) => Decision::OwnPolicy(vec![no_principal(Vec::new(), ports)]),
        (false, false) => Decision::OwnPolicy(vec![no_principal(ports, Vec::new())]),
    }
}

/// Of the oldest policy without a selector: of the namespace, else of the mesh.
fn inherited(cluster: &Cluster, namespace: &str, all: &[&Policy]) -> bool {
    let wide = |wanted: &str| {
        let wide =
            all.iter().filter(|policy| policy.key.0 == wanted).filter_map(|policy| match &policy.spec {
                Spec::PeerAuthentication(spec) if selector(spec).is_empty() => {
                    Some((policy, strictness(spec.mtls.as_ref())))
                }
                _ => None,
            });
        wide.min_by_key(|(policy, _)| (&policy.created, &policy.key)).and_then(|(_, strictness)| strictness)
    };
    let mesh = wide(&cluster.root_namespace);
    if namespace == cluster.root_namespace { mesh } else { wide(namespace).or(mesh) }.unwrap_or(false)
}

/// Of a policy for selected workloads. In the root namespace there is none: a selector there selects nobody.
fn workload_spec<'a>(cluster: &Cluster, policy: &'a Policy) -> Option<&'a PeerAuthenticationSpec> {
    match &policy.spec {
        Spec::PeerAuthentication(spec)
            if policy.key.0 != cluster.root_namespace && !selector(spec).is_empty() =>
        {
            Some(spec)
        }
        _ => None,
    }
}

fn selector(spec: &PeerAuthenticationSpec) -> Labels {
    spec.selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default()
}

fn strictness(tls: Option<&MutualTls>) -> Option<bool> {
    match tls.map(|tls| tls.mode).unwrap_or_default() {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Strict => Some(true),
        MutualTlsMode::Permissive | MutualTlsMode::Disable => Some(false),
    }
}

fn no_principal(destination_ports: Vec<u32>, not_destination_ports: Vec<u32>) -> Match {
    Match { not_principals: vec![presence()], destination_ports, not_destination_ports, ..Match::default() }
}

fn denial(namespace: String, name: String, matches: Vec<Match>) -> Authorization {
    Authorization {
        name,
        namespace,
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        ..Authorization::default()
    }
}
