//! The decision, case by case.

use serde_json::{Value, json};

use super::*;

fn labels(mode: Option<&str>) -> BTreeMap<String, String> {
    mode.map(|mode| (DATAPLANE_MODE.to_owned(), mode.to_owned())).into_iter().collect()
}

fn pod(namespace: &str, mode: Option<&str>, rest: Value) -> Pod {
    let mut pod = rest;
    pod["metadata"]["name"] = json!("p");
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["labels"] = json!(labels(mode));
    if pod["spec"].is_null() {
        pod["spec"] = json!({ "containers": [{ "name": "app" }] });
    }
    serde_json::from_value(pod).unwrap()
}

fn decide(namespace: Option<&str>, pod: &Pod) -> Result<(), Refusal> {
    membership(&labels(namespace), pod, &Own { namespace: "ztunnel-system".into() })
}

/// Fails if a pod's own label did not win over its namespace's, or if a missing one meant yes.
#[test]
fn the_pod_s_label_wins_over_the_namespace_s() {
    let cases = [
        (None, None, Err(Refusal::NotAsked)),
        (Some("ambient"), None, Ok(())),
        (None, Some("ambient"), Ok(())),
        (Some("none"), Some("ambient"), Ok(())),
        (Some("ambient"), Some("none"), Err(Refusal::OptedOut)),
        (Some("none"), None, Err(Refusal::OptedOut)),
        (Some("Ambient"), None, Err(Refusal::UnknownMode)),
        (Some("ambient"), Some("sidecar"), Err(Refusal::UnknownMode)),
    ];
    for (namespace, own, expected) in cases {
        assert_eq!(decide(namespace, &pod("shop", own, json!({}))), expected, "{namespace:?} {own:?}");
    }
}

/// Fails if a pod would be enrolled that has no network of its own, or whose connections another proxy already takes.
#[test]
fn pods_of_the_node_s_network_and_with_sidecars_are_refused() {
    let refused = [
        (json!({ "spec": { "hostNetwork": true, "containers": [] } }), Refusal::HostNetwork),
        (json!({ "metadata": { "annotations": { "sidecar.istio.io/status": "{}" } } }), Refusal::Sidecar),
        (json!({ "metadata": { "annotations": { "linkerd.io/proxy-version": "x" } } }), Refusal::Sidecar),
        (
            json!({ "spec": { "containers": [{ "name": "app" }, { "name": "istio-proxy" }] } }),
            Refusal::Sidecar,
        ),
        (
            json!({ "spec": { "containers": [], "initContainers": [{ "name": "linkerd-proxy" }] } }),
            Refusal::Sidecar,
        ),
        (json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "x" } } }), Refusal::System),
        (json!({ "status": { "phase": "Succeeded" } }), Refusal::Ended),
        (json!({ "status": { "phase": "Failed" } }), Refusal::Ended),
    ];
    for (rest, refusal) in refused {
        assert_eq!(decide(None, &pod("shop", Some("ambient"), rest.clone())), Err(refusal), "{rest}");
    }
}

/// Fails if a label could bring the cluster's DNS, or the mesh's own daemon, behind the mesh.
#[test]
fn the_system_s_own_is_never_enrolled() {
    for (namespace, refusal) in [("kube-system", Refusal::System), ("ztunnel-system", Refusal::Own)] {
        assert_eq!(decide(Some("ambient"), &pod(namespace, Some("ambient"), json!({}))), Err(refusal));
    }
    assert_eq!(decide(Some("ambient"), &pod("kube-systems", None, json!({}))), Ok(()));
}
