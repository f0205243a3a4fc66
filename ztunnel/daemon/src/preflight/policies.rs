//! NetworkPolicies see connections to port 15008, whatever port the application has: where they isolate pods, that port has to
//! be among those that they let in and out.

use std::collections::{BTreeMap, BTreeSet};

use kubernetes::{
    k8s_openapi::{
        api::{
            core::v1::Pod,
            networking::v1::{NetworkPolicy, NetworkPolicyPort, NetworkPolicySpec},
        },
        apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
    },
    kube::ResourceExt,
};

use super::{
    look::Found,
    pods::mesh_membership,
    report::{Level, Report},
};

const HBONE: i32 = 15008;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    In,
    Out,
}

pub(super) fn judge(found: &Found, report: &mut Report) {
    // By namespace and policies, so that a thousand replicas are one line.
    let mut blocked: BTreeMap<(String, Direction, BTreeSet<String>), Vec<String>> = BTreeMap::new();
    for pod in found.pods.iter().filter(|pod| mesh_membership(found, pod).is_ok()) {
        for direction in [Direction::In, Direction::Out] {
            if let Some(policies) = blocking(&found.policies, pod, direction) {
                let key = (pod.namespace().unwrap_or_default(), direction, policies);
                blocked.entry(key).or_default().push(pod.name_any());
            }
        }
    }
    if blocked.is_empty() && !found.policies.is_empty() {
        report.add(Level::Good, "networkpolicies", "none is in the way of pods that ask for the mesh");
    }
    for ((namespace, direction, policies), pods) in blocked {
        let policies: Vec<String> = policies.into_iter().collect();
        let way = if direction == Direction::In { "into" } else { "out of" };
        let text = format!(
            "no NetworkPolicy lets port {HBONE} {way} {} pods ({}, ...), which {} isolate: allow it there, or by the chart's \
             networkPolicy.allow",
            pods.len(),
            pods.first().map(String::as_str).unwrap_or_default(),
            policies.join(", ")
        );
        report.add(Level::Problem, format!("namespace/{namespace}"), text);
    }
}

/// The policies that isolate the pod in that direction, if none of them lets HBONE pass.
fn blocking(policies: &[NetworkPolicy], pod: &Pod, direction: Direction) -> Option<BTreeSet<String>> {
    let selects = |policy: &&NetworkPolicy| {
        policy.namespace() == pod.namespace()
            && policy.spec.as_ref().is_some_and(|spec| {
                isolates(spec, direction)
                    && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, pod))
            })
    };
    let isolating: Vec<_> = policies.iter().filter(selects).collect();
    let lets_pass =
        isolating.iter().filter_map(|policy| policy.spec.as_ref()).any(|spec| passes(spec, direction));
    (!isolating.is_empty() && !lets_pass).then(|| isolating.iter().map(|policy| policy.name_any()).collect())
}

/// Without types, a policy is for what comes in, and for what goes out if it has rules for that.
fn isolates(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    match direction {
        Direction::In => types.is_empty() || types.iter().any(|kind| kind == "Ingress"),
        Direction::Out if types.is_empty() => spec.egress.is_some(),
        Direction::Out => types.iter().any(|kind| kind == "Egress"),
    }
}

/// Whether some rule names the port or all ports. From and to whom is for somebody else to judge.
fn passes(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let ports: Vec<Option<&[NetworkPolicyPort]>> = match direction {
        Direction::In => spec.ingress.iter().flatten().map(|rule| rule.ports.as_deref()).collect(),
        Direction::Out => spec.egress.iter().flatten().map(|rule| rule.ports.as_deref()).collect(),
    };
    ports.into_iter().any(|ports| ports.is_none_or(|ports| ports.is_empty() || ports.iter().any(is_hbone)))
}

fn is_hbone(port: &NetworkPolicyPort) -> bool {
    let is_tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    is_tcp
        && match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&HBONE),
            (Some(IntOrString::Int(port)), None) => *port == HBONE,
            // The name of a port of the application's.
            (Some(IntOrString::String(_)), _) => false,
        }
}

fn matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let labels = pod.labels();
    let all_equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    all_equal
        && expressions.into_iter().all(|wanted| {
            let value = labels.get(&wanted.key);
            let is_listed = value.is_some_and(|value| wanted.values.iter().flatten().any(|one| one == value));
            match wanted.operator.as_str() {
                "In" => is_listed,
                "NotIn" => !is_listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(specs: &[Value]) -> Report {
        let namespace =
            json!({ "metadata": { "name": "shop", "labels": { "istio.io/dataplane-mode": "ambient" } } });
        let pod = json!({
            "metadata": { "name": "till", "namespace": "shop", "labels": { "app": "till" } },
            "spec": { "containers": [{ "name": "app" }] },
        });
        let policy = |(number, spec): (usize, &Value)| {
            let policy =
                json!({ "metadata": { "name": format!("p{number}"), "namespace": "shop" }, "spec": spec });
            serde_json::from_value(policy).unwrap()
        };
        let found = Found {
            namespaces: [("shop".to_owned(), serde_json::from_value(namespace).unwrap())].into(),
            pods: vec![serde_json::from_value(pod).unwrap()],
            policies: specs.iter().enumerate().map(policy).collect(),
            ..Found::default()
        };
        let mut report = Report::default();
        judge(&found, &mut report);
        report
    }

    fn closed(selector: &Value) -> Value {
        json!({ "podSelector": selector, "policyTypes": ["Ingress"], "ingress": [{ "ports": [{ "port": 8080 }] }] })
    }

    #[track_caller]
    fn is_blocked(specs: &[Value], part: &str) {
        let report = judged(specs);
        assert!(report.has(Level::Problem, "namespace/shop", part), "{report:?}");
    }

    #[track_caller]
    fn is_free(specs: &[Value]) {
        let report = judged(specs);
        assert_eq!(report.problems(), 0, "{report:?}");
    }

    #[test]
    fn pods_that_are_isolated_without_the_port_are_found() {
        is_blocked(&[closed(&json!({}))], "into 1 pods (till, ...), which p0 isolate");
        is_blocked(&[closed(&json!({ "matchLabels": { "app": "till" } }))], "into");
        is_blocked(&[json!({ "podSelector": {} })], "into");
        is_blocked(&[json!({ "podSelector": {}, "policyTypes": ["Egress"] })], "out of");
        is_blocked(
            &[json!({ "podSelector": {}, "egress": [{ "ports": [{ "port": 53, "protocol": "UDP" }] }],
            "ingress": [{}] })],
            "out of",
        );
        let exists =
            json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["till", "web"] }] });
        is_blocked(&[closed(&exists)], "into");
        let udp =
            json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 15008, "protocol": "UDP" }] }] });
        is_blocked(&[udp], "into");
    }

    #[test]
    fn where_the_port_is_let_through_nothing_is_told() {
        is_free(&[]);
        is_free(&[closed(&json!({ "matchLabels": { "app": "other" } }))]);
        let absent = json!({ "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] });
        is_free(&[closed(&absent)]);
        is_free(&[json!({ "podSelector": {}, "ingress": [{}] })]);
        let range =
            json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 15000, "endPort": 15010 }] }] });
        // Policies add up: another one may let it through.
        is_free(&[closed(&json!({})), range]);
    }
}
