//! What the controller asks of the API server is what the chart's roles let it ask.

use std::time::Duration;

use chart::Chart;
use serde_json::{Value, json};
use testkit::api_server::Asked;

use super::{Cluster, Daemon, OWN, Replica, within};

/// The rules of the controller's roles: those for the whole cluster, and those for its own namespace.
fn rules(values: &Value) -> [Vec<Value>; 2] {
    let documents = Chart::ours().unwrap().render(values).unwrap();
    let documents: Vec<Value> = documents.iter().map(|text| chart::parse(text).unwrap()).collect();
    ["ClusterRole", "Role"].map(|kind| {
        let is_it = |document: &&Value| {
            document["kind"] == kind && document["metadata"]["name"] == "ztunnel-controller"
        };
        let role = documents.iter().find(is_it).unwrap();
        role["rules"].as_array().unwrap().clone()
    })
}

fn allows(rule: &Value, asked: &Asked) -> bool {
    let has =
        |field: &str, wanted: &str| rule[field].as_array().is_some_and(|all| all.contains(&json!(wanted)));
    // Who lists or watches one object by its name asks for that object.
    let selected = form_urlencoded::parse(asked.query.as_bytes())
        .find(|(name, _)| name == "fieldSelector")
        .and_then(|(_, selector)| selector.strip_prefix("metadata.name=").map(str::to_owned));
    let name = asked.name.clone().or(selected);
    let is_named = rule["resourceNames"].is_null() || name.is_some_and(|name| has("resourceNames", &name));
    has("verbs", asked.verb)
        && has("apiGroups", &asked.group)
        && has("resources", &asked.resource)
        && is_named
}

/// Fails if the controller would be refused something in a real cluster, where its service account has these roles only.
#[test]
fn the_chart_s_roles_are_enough() {
    let cluster = Cluster::of_test();
    let replica = Replica::start(&cluster, "one", &[]);
    cluster.put(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "shop" }, "spec": { "action": "DENY", "rules": [] },
    }));
    cluster.put(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "p", "namespace": "shop" }, "spec": { "mtls": { "mode": "STRICT" } },
    }));
    for plural in ["authorizationpolicies", "peerauthentications"] {
        within(Duration::from_secs(20), "the policy's status", || {
            let policy = cluster.get("security.istio.io/v1", plural, "shop", "p")?;
            policy["status"]["conditions"][0]["reason"].as_str().map(drop)
        });
    }
    Daemon::of(&cluster, 1).certificate(&cluster, &replica, "account-1").unwrap();
    let [everywhere, own] = rules(&json!({}));
    let asked = cluster.test().asked();
    let verbs: std::collections::BTreeSet<_> = asked.iter().map(|asked| asked.verb).collect();
    assert!(
        ["list", "watch", "create", "update", "patch"].iter().all(|verb| verbs.contains(verb)),
        "{verbs:?}"
    );
    for asked in asked {
        let in_own = own.iter().filter(|_| asked.namespace.as_deref() == Some(OWN));
        assert!(everywhere.iter().chain(in_own).any(|rule| allows(rule, &asked)), "{asked:?} is not allowed");
    }
}
