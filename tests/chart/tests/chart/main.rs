//! What must hold of the chart, the plain manifest, the dashboard and the alerts.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
mod engine;
mod manifests;
mod monitoring;
mod values;

use chart::{Chart, parse};
use serde_json::{Value, json};

/// Values as people set them, each a different way through the templates.
fn variants() -> Vec<(&'static str, Value)> {
    vec![
        ("defaults", json!({})),
        ("istio", json!({"mode": "istio", "istio": {"env": [{"name": "XDS_ON_DEMAND", "value": "true"}]}})),
        ("no CNI plugin", json!({"cni": {"enabled": false}, "controller": {"replicas": 1}})),
        ("no clean-up", json!({"uninstall": {"enabled": false}, "daemon": {"kubeletCgroup": "none"}})),
        ("own seccomp profile", json!({"daemon": {"installSeccompProfile": true}})),
        (
            "everything",
            json!({
                "image": {"digest": format!("sha256:{}", "0a".repeat(32))},
                "imagePullSecrets": [{"name": "registry"}],
                "trustDomain": "example.org",
                "daemon": {
                    "config": {"accessLog": {"mode": "errors"}, "controlPlane": {"mode": "onDemand"}, "limits": {"turns": 4}},
                    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]}}},
                    "podAnnotations": {"example.org/number": "1"},
                    "env": [{"name": "RUST_BACKTRACE", "value": "0"}],
                    "kubeletCgroup": "system.slice/kubelet.service",
                    "seccompProfile": {"type": "Localhost", "localhostProfile": "ztunnel.json"},
                },
                "controller": {"tolerations": [{"operator": "Exists"}], "env": [{"name": "A", "value": "b"}]},
                "networkPolicy": {"allow": [
                    {"namespace": "shop", "podSelector": {"matchLabels": {"app": "cart"}}, "policyTypes": ["Ingress", "Egress"]},
                    {"namespace": "bank", "policyTypes": ["Ingress"]},
                    {"namespace": "bank", "podSelector": {"matchLabels": {"app": "till"}}, "policyTypes": ["Egress"]},
                ]},
                "podMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
                "prometheusRule": {"enabled": true, "strictBoundNamespaces": "shop|bank"},
                "grafanaDashboard": {"enabled": true},
            }),
        ),
    ]
}

fn rendered(values: &Value) -> Vec<Value> {
    let documents = Chart::ours().unwrap().render(values).unwrap();
    documents.iter().map(|text| parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))).collect()
}

fn find<'d>(documents: &'d [Value], kind: &str, name: &str) -> &'d Value {
    let it = documents.iter().find(|d| d["kind"] == kind && d["metadata"]["name"] == name);
    it.unwrap_or_else(|| panic!("no {kind} {name}"))
}
