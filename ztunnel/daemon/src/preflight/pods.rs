//! Pods whose labels, or whose namespace's, ask for the mesh and which cannot be in it.

use std::collections::BTreeMap;

use kubernetes::{
    DATAPLANE_MODE, Own, Refusal, k8s_openapi::api::core::v1::Pod, kube::ResourceExt, membership,
};

use super::{
    look::Found,
    report::{Level, Report},
};

/// Names that are told of each sort.
const EXAMPLES: usize = 3;

pub(super) fn judge(found: &Found, report: &mut Report) {
    let mut left_out: BTreeMap<(String, &'static str), Vec<&Pod>> = BTreeMap::new();
    let mut inside = 0_usize;
    for pod in &found.pods {
        match mesh_membership(found, pod) {
            Ok(()) => inside += 1,
            Err(refusal) if refusal.is_surprising() => {
                let key = (pod.namespace().unwrap_or_default(), refusal.reason());
                left_out.entry(key).or_default().push(pod);
            }
            Err(_) => {}
        }
    }
    report.add(Level::Good, "pods", format!("{inside} ask for the mesh and can be in it"));
    for ((namespace, reason), pods) in left_out {
        let names: Vec<String> = pods.iter().take(EXAMPLES).map(|pod| pod.name_any()).collect();
        let more = if pods.len() > EXAMPLES { ", ..." } else { "" };
        let text = format!(
            "{} pods ask for the mesh and stay outside ({reason}): {}{more}",
            pods.len(),
            names.join(", ")
        );
        report.add(Level::Warning, format!("namespace/{namespace}"), text);
    }
    for (name, namespace) in &found.namespaces {
        let labels = namespace.labels();
        let injects = labels.get("istio-injection").is_some_and(|value| value == "enabled")
            || labels.contains_key("istio.io/rev");
        if injects && labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == "ambient") {
            let text =
                "its pods get Istio's sidecar, and pods with one are not enrolled: take that label away";
            report.add(Level::Warning, format!("namespace/{name}"), text);
        }
    }
}

/// As the daemon and the controller decide.
pub(super) fn mesh_membership(found: &Found, pod: &Pod) -> Result<(), Refusal> {
    let none = BTreeMap::new();
    let namespace = pod.namespace().and_then(|name| found.namespaces.get(&name));
    let labels = namespace.map_or(&none, |namespace| namespace.labels());
    membership(labels, pod, &Own { namespace: found.own.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(pod: Value, namespace_labels: &Value) -> Found {
        let namespace: kubernetes::k8s_openapi::api::core::v1::Namespace =
            serde_json::from_value(json!({ "metadata": { "name": "shop", "labels": namespace_labels } }))
                .unwrap();
        let pod = serde_json::from_value(pod).unwrap();
        Found { namespaces: [("shop".to_owned(), namespace)].into(), pods: vec![pod], ..Found::default() }
    }

    #[test]
    fn who_asks_and_cannot_be_in_the_mesh_is_told() {
        let pod = |spec: Value| json!({ "metadata": { "name": "till", "namespace": "shop" }, "spec": spec });
        let judged = |spec: Value, labels: &Value| {
            let mut report = Report::default();
            judge(&found(pod(spec), labels), &mut report);
            report
        };
        let ambient = json!({ "istio.io/dataplane-mode": "ambient" });
        let plain = json!({ "containers": [{ "name": "app" }] });
        assert!(judged(plain.clone(), &ambient).has(Level::Good, "pods", "1 ask"));
        let on_host = json!({ "containers": [{ "name": "app" }], "hostNetwork": true });
        assert!(judged(on_host, &ambient).has(Level::Warning, "namespace/shop", "host_network"));
        let sidecar = json!({ "containers": [{ "name": "istio-proxy" }] });
        assert!(judged(sidecar, &ambient).has(Level::Warning, "namespace/shop", "sidecar"));
        let both = json!({ "istio.io/dataplane-mode": "ambient", "istio-injection": "enabled" });
        assert!(judged(plain.clone(), &both).has(Level::Warning, "namespace/shop", "Istio's sidecar"));
        assert_eq!(judged(plain, &json!({})).findings.len(), 1);
    }
}
