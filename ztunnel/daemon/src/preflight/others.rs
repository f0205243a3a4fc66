//! Whoever else has a hand in the pods' traffic: CNIs that redirect, other meshes, admission.

use kubernetes::{k8s_openapi::api::apps::v1::DaemonSet, kube::ResourceExt};

use super::{
    look::Found,
    report::{Level, Report},
};

/// Set by people or by the cluster on a namespace: which pods may be made there.
const ADMISSION: &str = "pod-security.kubernetes.io/enforce";

pub(super) fn judge(found: &Found, report: &mut Report) {
    cilium(found, report);
    for set in &found.daemon_sets {
        if let Some(text) = other_mesh(set, &found.own) {
            let about = format!("daemonset/{}/{}", set.namespace().unwrap_or_default(), set.name_any());
            report.add(Level::Problem, about, text);
        }
    }
    let own = found.namespaces.get(&found.own);
    let level = own.and_then(|namespace| namespace.labels().get(ADMISSION));
    if let Some(level) = level.filter(|level| *level != "privileged") {
        let text = format!(
            "{ADMISSION}={level} refuses the daemons, which need hostPID, host paths and SYS_ADMIN: set it to privileged"
        );
        report.add(Level::Problem, format!("namespace/{}", found.own), text);
    }
}

/// By its configuration, of which every version has had these keys.
fn cilium(found: &Found, report: &mut Report) {
    let Some(settings) = found.cilium.as_ref().and_then(|map| map.data.as_ref()) else { return };
    let is_on = |key: &str| settings.get(key).is_some_and(|value| value == "true");
    let replaces =
        settings.get("kube-proxy-replacement").is_some_and(|value| value == "true" || value == "strict");
    if (replaces || is_on("bpf-lb-sock")) && !is_on("bpf-lb-sock-hostns-only") {
        let text = "its socket load balancing replaces addresses of services before the mesh sees them, so that failover, \
                    waypoints and policies of services do not apply: set socketLB.hostNamespaceOnly=true";
        report.add(Level::Problem, "cilium", text);
    } else {
        report.add(Level::Good, "cilium", "it leaves pods' addresses of services alone");
    }
    if settings.get("cni-exclusive").is_none_or(|value| value == "true") {
        let text = "cni.exclusive: it takes other CNI configurations away. Our entry is put back each time, and pods that \
                    start in between are enrolled only as they run: set cni.exclusive=false";
        report.add(Level::Warning, "cilium", text);
    }
}

/// Who would take the same connections.
fn other_mesh(set: &DaemonSet, own: &str) -> Option<&'static str> {
    let name = set.name_any();
    let is_ours = set.namespace().as_deref() == Some(own);
    let is_istio_s = set.labels().get("app").is_some_and(|app| app == "ztunnel");
    match name.as_str() {
        "istio-cni-node" => Some(
            "Istio redirects pods here: install with mode=istio in istiod's namespace, in the place of its ztunnel, or take \
             Istio away",
        ),
        "ztunnel" if is_istio_s && !is_ours => Some("Istio's ztunnel serves the same pods: take it away"),
        "linkerd-cni" => Some(
            "Linkerd redirects pods that it injects; they are not enrolled, and others are not its concern",
        ),
        "kmesh" => Some("Kmesh serves the same pods: take it away"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(found: Found) -> Report {
        let mut report = Report::default();
        judge(&Found { own: "mesh".to_owned(), ..found }, &mut report);
        report
    }

    #[test]
    fn cilium_s_socket_load_balancing_is_found_unless_it_leaves_pods_alone() {
        let cilium = |data: Value| {
            let map = serde_json::from_value(json!({ "data": data })).unwrap();
            judged(Found { cilium: Some(map), ..Found::default() })
        };
        assert!(cilium(json!({ "kube-proxy-replacement": "true" })).has(
            Level::Problem,
            "cilium",
            "hostNamespaceOnly"
        ));
        assert!(cilium(json!({ "bpf-lb-sock": "true" })).has(Level::Problem, "cilium", "hostNamespaceOnly"));
        let kept = json!({
            "kube-proxy-replacement": "strict", "bpf-lb-sock-hostns-only": "true", "cni-exclusive": "false",
        });
        let report = cilium(kept);
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert!(cilium(json!({})).has(Level::Warning, "cilium", "cni.exclusive"));
    }

    #[test]
    fn other_meshes_and_closed_doors_are_found_and_we_are_not() {
        let set = |namespace: &str, name: &str| -> DaemonSet {
            let metadata = json!({ "name": name, "namespace": namespace, "labels": { "app": name } });
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        let with = |set: DaemonSet| judged(Found { daemon_sets: vec![set], ..Found::default() });
        assert_eq!(with(set("istio-system", "ztunnel")).problems(), 1);
        assert_eq!(with(set("mesh", "ztunnel")).problems(), 0);
        assert_eq!(with(set("kube-system", "istio-cni-node")).problems(), 1);
        assert_eq!(with(set("kube-system", "kube-proxy")).problems(), 0);
        let namespace = |level: &str| {
            let labels = json!({ "pod-security.kubernetes.io/enforce": level });
            let namespace =
                serde_json::from_value(json!({ "metadata": { "name": "mesh", "labels": labels } })).unwrap();
            judged(Found { namespaces: [("mesh".to_owned(), namespace)].into(), ..Found::default() })
        };
        assert!(namespace("baseline").has(Level::Problem, "namespace/mesh", "refuses the daemons"));
        assert_eq!(namespace("privileged").problems(), 0);
    }
}
