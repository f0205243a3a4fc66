//! What the wire says of the cluster's objects.
#![expect(clippy::needless_pass_by_value, reason = "values are written where they are handed over")]

use kubernetes::{Own, k8s_openapi::api::core::v1 as api, kube::core::DynamicObject};
use proto::{
    security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType},
    workload::{Locality, Port, PortList, TunnelProtocol, WorkloadStatus, WorkloadType},
};
use serde_json::{Value, json};

use super::*;
use crate::facts::{Node, Pod, Policy, PolicyKind, Service};

pub(crate) fn cluster() -> Cluster {
    Cluster {
        id: "Kubernetes".into(),
        network: String::new(),
        trust_domain: String::new(),
        domain: "cluster.local".into(),
        root_namespace: "root".into(),
    }
}

fn pod(object: Value) -> Pod {
    Pod::of(serde_json::from_value::<api::Pod>(object).unwrap(), &Own::default())
}

fn web() -> Value {
    json!({
        "metadata": {
            "name": "web-5d4f-abcde", "namespace": "shop",
            "labels": { "app": "web", "version": "v2", "pod-template-hash": "5d4f" },
            "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "1", "controller": true },
            ],
        },
        "spec": {
            "nodeName": "n1", "serviceAccountName": "web",
            "containers": [{ "name": "app", "ports": [{ "name": "http", "containerPort": 8080 }] }],
        },
        "status": {
            "phase": "Running", "podIPs": [{ "ip": "10.1.0.1" }, { "ip": "fd00::1" }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

fn service(spec: Value) -> Service {
    let object = json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": spec });
    Service::of(serde_json::from_value(object).unwrap())
}

fn surroundings<'a>(services: Vec<&'a Service>, node: Option<&'a Node>) -> PodSurroundings<'a> {
    PodSurroundings { is_enrolled: true, node, services, policies: vec!["shop/p".into()] }
}

/// Fails if a daemon were told something else of a pod than istiod tells.
#[test]
fn a_pod_with_all_it_has() {
    let node: api::Node = serde_json::from_value(json!({ "metadata": { "name": "n1", "labels": {
        "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z",
    } } }))
    .unwrap();
    let node = Node::of(node);
    let service = service(json!({ "selector": { "app": "web" }, "ports": [
        { "name": "http", "port": 80, "targetPort": "http" },
        { "name": "admin", "port": 90, "targetPort": 9000 },
        { "name": "nowhere", "port": 91, "targetPort": "not-there" },
        { "name": "dns", "port": 53, "protocol": "UDP" },
    ] }));
    let made = workload(&cluster(), &pod(web()), surroundings(vec![&service], Some(&node))).unwrap();
    assert_eq!(made.uid, "Kubernetes//Pod/shop/web-5d4f-abcde");
    assert_eq!(made.addresses.iter().map(|octets| octets.len()).collect::<Vec<_>>(), [4, 16]);
    assert_eq!((made.workload_name.as_str(), made.workload_type()), ("web", WorkloadType::Deployment));
    assert_eq!((made.canonical_name.as_str(), made.canonical_revision.as_str()), ("web", "v2"));
    assert_eq!((made.service_account.as_str(), made.node.as_str()), ("web", "n1"));
    assert_eq!((made.tunnel_protocol(), made.status()), (TunnelProtocol::Hbone, WorkloadStatus::Healthy));
    assert_eq!(
        made.locality,
        Some(Locality { region: "r".into(), zone: "z".into(), subzone: String::new() })
    );
    assert_eq!(made.authorization_policies, ["shop/p"]);
    let port = |service_port, target_port, app_protocol| Port { service_port, target_port, app_protocol };
    let ports = PortList { ports: vec![port(80, 8080, 1), port(90, 9000, 0)] };
    assert_eq!(made.services, [("shop/web.shop.svc.cluster.local".to_owned(), ports)].into());
}

/// Fails if traffic were sent to an address that is another's by now, or to a pod that is on its way out.
#[test]
fn pods_without_an_address_or_at_their_end() {
    for (field, value) in [("phase", json!("Succeeded")), ("podIPs", json!([]))] {
        let mut object = web();
        object["status"][field] = value;
        assert!(workload(&cluster(), &pod(object), surroundings(vec![], None)).is_none(), "{field}");
    }
    let mut leaving = web();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let made = workload(&cluster(), &pod(leaving), surroundings(vec![], None)).unwrap();
    assert_eq!(made.status(), WorkloadStatus::Unhealthy);
}

/// Fails if a headless service got an address, or an external name a place in the mesh.
#[test]
fn services_of_every_sort() {
    let plain =
        super::service(&cluster(), &service(json!({ "clusterIPs": ["10.0.0.1", "fd00::9"] }))).unwrap();
    assert_eq!(plain.hostname, "web.shop.svc.cluster.local");
    assert_eq!(plain.addresses.len(), 2);
    let headless = super::service(&cluster(), &service(json!({ "clusterIPs": ["None"] }))).unwrap();
    assert!(headless.addresses.is_empty());
    let external = json!({ "type": "ExternalName", "externalName": "example.com" });
    assert!(super::service(&cluster(), &service(external)).is_none());
    let local = super::service(&cluster(), &service(json!({ "internalTrafficPolicy": "Local" }))).unwrap();
    assert_eq!(local.load_balancing.unwrap().routing_preference, [4]);
}

fn policy_of(kind: PolicyKind, namespace: &str, name: &str, spec: Value) -> Policy {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": namespace }, "spec": spec,
    }))
    .unwrap();
    Policy::of(&object, kind)
}

fn converted_authorization(namespace: &str, spec: Value) -> (Option<Authorization>, Verdict) {
    authorization(&cluster(), &policy_of(PolicyKind::Authorization, namespace, "p", spec))
}

fn exact(value: &str) -> StringMatch {
    StringMatch { match_type: Some(MatchType::Exact(value.to_owned())) }
}

/// Fails if a policy meant something else on the wire.
#[test]
fn a_policy_with_all_of_layer_4() {
    let (made, verdict) = converted_authorization(
        "shop",
        json!({ "selector": { "matchLabels": { "app": "web" } }, "action": "DENY", "rules": [{
            "from": [{ "source": { "principals": ["td/ns/a/sa/b"], "notIpBlocks": ["10.0.0.0/8"] } }],
            "to": [{ "operation": { "ports": ["80"] } }, { "operation": { "notPorts": ["90"] } }],
            "when": [{ "key": "source.namespace", "values": ["x"], "notValues": ["y"] }],
        }] }),
    );
    let made = made.unwrap();
    assert_eq!(verdict, Verdict::default());
    assert_eq!((made.scope(), made.action()), (Scope::WorkloadSelector, Action::Deny));
    let ports = |ports: &[u32], not: &[u32]| Match {
        destination_ports: ports.to_vec(),
        not_destination_ports: not.to_vec(),
        ..Match::default()
    };
    let block = proto::security::Address { address: vec![10, 0, 0, 0].into(), length: 8 };
    let source =
        Match { principals: vec![exact("td/ns/a/sa/b")], not_source_ips: vec![block], ..Match::default() };
    let namespaces =
        Match { namespaces: vec![exact("x")], not_namespaces: vec![exact("y")], ..Match::default() };
    let clauses = [vec![ports(&[80], &[]), ports(&[], &[90])], vec![source], vec![namespaces]];
    let clauses = clauses.map(|matches| Clause { matches }).into();
    assert_eq!(made.rules, [Rule { clauses }]);
}

/// Fails if what is not enforced, not known or not readable made a policy let in more than it says.
#[test]
fn what_is_not_enforced_never_widens() {
    let cases = [
        json!({ "to": [{ "operation": { "methods": ["GET"], "ports": ["80"] } }] }),
        json!({ "from": [{ "source": { "requestPrincipals": ["*"] } }] }),
        json!({ "when": [{ "key": "request.headers[x]", "values": ["y"] }] }),
        json!({ "to": [{ "operation": { "ports": ["http"] } }] }),
        json!({ "from": [{ "source": { "ipBlocks": ["10.0.0.0/77"] } }] }),
        json!({ "from": [{ "source": { "planets": ["mars"], "namespaces": ["a"] } }] }),
        json!({ "unless": [], "to": [{ "operation": { "ports": ["80"] } }] }),
        json!({ "from": [{ "source": { "principals": [] } }] }),
        json!({ "from": [{ "source": {} }] }),
        json!({ "to": [{ "operation": {} }], "from": [{ "source": { "principals": ["a"] } }] }),
        json!({ "when": [{ "key": "source.principal", "values": [] }] }),
    ];
    for rule in cases {
        let (made, verdict) = converted_authorization("shop", json!({ "rules": [rule] }));
        assert!(made.unwrap().rules.is_empty(), "{rule}: an ALLOW rule is left");
        assert_ne!(verdict, Verdict::default(), "{rule}: nobody is told");
        let (made, _) = converted_authorization("shop", json!({ "action": "DENY", "rules": [rule] }));
        let rules = made.unwrap().rules;
        assert_eq!(rules.len(), 1, "{rule}: the DENY rule is gone");
        let matches = rules[0].clauses.iter().flat_map(|clause| &clause.matches);
        assert!(
            matches.into_iter().all(|one| *one != Match::default()),
            "{rule}: matches nothing on the wire"
        );
    }
    let (made, verdict) = converted_authorization("shop", json!({ "rules": 7 }));
    assert!(made.unwrap().rules.is_empty() && !verdict.wrong.is_empty());
    let (made, _) = converted_authorization("shop", json!({ "action": "DENY", "rules": 7 }));
    assert_eq!(made.unwrap().rules, [Rule::default()], "a DENY policy that nobody can read denies");
}

/// Fails if one source that names nothing let everybody in beside one that names somebody.
#[test]
fn an_empty_source_adds_nobody() {
    let rule = json!({ "from": [{ "source": {} }, { "source": { "principals": ["a"] } }] });
    let (made, verdict) = converted_authorization("shop", json!({ "rules": [rule] }));
    let matches = &made.unwrap().rules[0].clauses[0].matches;
    assert_eq!(matches.len(), 1);
    assert_eq!(matches[0].principals, [exact("a")]);
    assert_eq!(verdict.wrong.len(), 1);
    let (made, verdict) = converted_authorization("shop", json!({ "rules": [{}] }));
    assert_eq!((&made.unwrap().rules[..], verdict), (&[Rule::default()][..], Verdict::default()), "all may");
}

/// Fails if workloads named a policy of which there is no resource: that refuses everybody.
#[test]
fn workloads_name_only_what_is_served() {
    for action in ["ALLOW", "DENY", "AUDIT", "CUSTOM"] {
        for target in [json!([]), json!([{ "kind": "Gateway", "name": "g" }])] {
            let spec = json!({
                "action": action, "targetRefs": target, "selector": { "matchLabels": { "a": "b" } }, "rules": [{}],
            });
            let policy = policy_of(PolicyKind::Authorization, "shop", "p", spec.clone());
            let (made, verdict) = authorization(&cluster(), &policy);
            assert_eq!(selector(&policy).is_some(), made.is_some(), "{spec}");
            assert_eq!(verdict.ignored.is_none(), made.is_some(), "{spec}");
        }
    }
    let unreadable = |labels: Value| {
        let spec = json!({ "action": "DENY", "rules": 7, "selector": { "matchLabels": labels } });
        let policy = policy_of(PolicyKind::Authorization, "shop", "p", spec);
        let (made, _) = authorization(&cluster(), &policy);
        (selector(&policy).is_some(), made.unwrap().scope())
    };
    assert_eq!(unreadable(json!({ "a": "b" })), (true, Scope::WorkloadSelector));
    assert_eq!(unreadable(json!({ "a": 1 })), (false, Scope::Namespace), "it would deny nobody");
}

/// Fails if scopes were mixed up, or a waypoint's policy were enforced here.
#[test]
fn scopes_and_targets() {
    let scope =
        |namespace: &str, spec: Value| converted_authorization(namespace, spec).0.map(|made| made.scope());
    assert_eq!(scope("root", json!({})), Some(Scope::Global));
    assert_eq!(scope("shop", json!({})), Some(Scope::Namespace));
    assert_eq!(
        scope("root", json!({ "selector": { "matchLabels": { "a": "b" } } })),
        Some(Scope::WorkloadSelector)
    );
    assert_eq!(scope("shop", json!({ "targetRefs": [{ "kind": "Gateway", "name": "g" }] })), None);
    assert_eq!(scope("shop", json!({ "action": "CUSTOM" })), None);
}

fn peer(namespace: &str, name: &str, spec: Value) -> Policy {
    policy_of(PolicyKind::PeerAuthentication, namespace, name, spec)
}

/// Fails if a workload were strict that is not to be, or the other way round: each scope with and without ports.
#[test]
fn strictness_by_scope_and_port() {
    let labels = [("app".to_owned(), "web".to_owned())].into();
    let selected = |mode: &str, ports: Value| {
        let selector = json!({ "matchLabels": { "app": "web" } });
        json!({ "selector": selector, "mtls": { "mode": mode }, "portLevelMtls": ports })
    };
    let strict = json!({ "mtls": { "mode": "STRICT" } });
    let permissive = json!({ "mtls": { "mode": "PERMISSIVE" } });
    let port = |mode: &str| json!({ "8080": { "mode": mode } });
    let none: [&str; 0] = [];
    let static_strict = ["root/istio_converted_static_strict"];
    let own = ["shop/converted_peer_authentication_w"];
    let cases: Vec<(Vec<Policy>, &[&str])> = vec![
        (vec![], &none),
        (vec![peer("root", "m", strict.clone())], &static_strict),
        (vec![peer("root", "m", strict.clone()), peer("shop", "n", permissive)], &none),
        (vec![peer("shop", "n", strict.clone())], &static_strict),
        (vec![peer("shop", "w", selected("STRICT", json!({})))], &static_strict),
        (vec![peer("shop", "n", strict.clone()), peer("shop", "w", selected("DISABLE", json!({})))], &none),
        (vec![peer("shop", "w", selected("STRICT", port("PERMISSIVE")))], &own),
        (vec![peer("shop", "w", selected("PERMISSIVE", port("STRICT")))], &own),
        (vec![peer("shop", "w", selected("STRICT", port("STRICT")))], &static_strict),
        (vec![peer("shop", "n", strict), peer("shop", "w", selected("UNSET", port("DISABLE")))], &own),
        (vec![peer("root", "m", selected("STRICT", json!({})))], &none),
    ];
    for (policies, expected) in cases {
        let all: Vec<&Policy> = policies.iter().collect();
        assert_eq!(effective(&cluster(), "shop", &labels, &all), expected, "{policies:?}");
    }
    let permissive = json!({ "mtls": { "mode": "PERMISSIVE" } });
    let of_web = json!({ "matchLabels": { "app": "web" } });
    for doubtful in [
        json!({ "mtls": { "mod": "STRICT" } }),
        json!({ "selector": { "matchExpressions": [] }, "mtls": { "mode": "PERMISSIVE" } }),
        json!({ "selector": of_web, "mtls": { "mode": "PERMISSIVE" }, "portLevelMtls": { "http": {} } }),
        json!({ "selector": of_web, "mtls": { "mode": "STRICKT" } }),
        json!({ "mtls": 7 }),
    ] {
        // The other is older by its name.
        let policies = [peer("shop", "a", permissive.clone()), peer("shop", "n", doubtful.clone())];
        let all: Vec<&Policy> = policies.iter().collect();
        assert_eq!(effective(&cluster(), "shop", &labels, &all), static_strict, "{doubtful}");
        assert!(!peer_verdict(&cluster(), all[1]).wrong.is_empty(), "{doubtful}");
    }
    let policy = peer("shop", "w", selected("STRICT", port("PERMISSIVE")));
    let made = converted(&cluster(), &policy, &[&policy]).unwrap();
    let one = &made.rules[0].clauses[0].matches[0];
    assert_eq!((made.action(), &one.not_destination_ports[..]), (Action::Deny, &[8080][..]));
    assert_eq!(one.not_principals.len(), 1);
}
