//! `ztunnel check --cluster`, the real binary, against an API server.

use std::{
    net::Ipv4Addr,
    process::{Command, Output},
};

use serde_json::{Value, json};
use testkit::api_server::{ApiServer, Fault};

struct Cluster {
    api: ApiServer,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// One good node, and a namespace in the mesh with a pod.
    fn start() -> Self {
        let api = ApiServer::start(Ipv4Addr::LOCALHOST.into(), None).unwrap();
        let directory = tempfile::tempdir().unwrap();
        api.write_kubeconfig(&directory.path().join("kubeconfig"), "somebody").unwrap();
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "one" },
            "status": { "nodeInfo": {
                "kernelVersion": "6.8.0", "architecture": "amd64", "kubeletVersion": "v1.31.0", "operatingSystem": "linux",
                "containerRuntimeVersion": "containerd://1.7.0", "bootID": "", "kubeProxyVersion": "", "machineID": "",
                "osImage": "", "systemUUID": "",
            }},
        });
        let labels = json!({ "istio.io/dataplane-mode": "ambient" });
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": labels },
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "till", "namespace": "shop" },
            "spec": { "containers": [{ "name": "app" }] },
        });
        api.put_all([node, namespace, pod]).unwrap();
        Self { api, directory }
    }

    fn check(&self, more: &[&str]) -> Output {
        let mut check = Command::new(std::env::var_os("ZTUNNEL_BIN").expect("ZTUNNEL_BIN names the daemon"));
        check.args(["check", "--cluster", "--kubeconfig"]).arg(self.directory.path().join("kubeconfig"));
        check.args(more).output().unwrap()
    }

    /// The exit status, and what was said.
    fn told(&self) -> (Option<i32>, String) {
        let Output { status, stdout, .. } = self.check(&[]);
        (status.code(), String::from_utf8(stdout).unwrap())
    }
}

/// Catches: a cluster that will do and is refused, one that will not and is let through, and what cannot be seen taken for good.
#[test]
fn a_cluster_is_looked_over() {
    let cluster = Cluster::start();
    let (status, said) = cluster.told();
    assert!(status == Some(0) && said.contains("problems: 0, unknown: 0"), "{said}");
    assert!(said.contains("1, all with kernel 6.1 or newer"), "{said}");

    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "closed", "namespace": "shop" }, "spec": { "podSelector": {} },
    });
    cluster.api.put(policy).unwrap();
    cluster.api.forbid("clusterroles");
    let (status, said) = cluster.told();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("15008 into 1 pods (till") && said.contains("create clusterroles"), "{said}");
    let json: Value = serde_json::from_slice(&cluster.check(&["--json"]).stdout).unwrap();
    let problems =
        json["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "problem");
    assert_eq!(problems.count(), 2, "{json}");
}

/// Catches: a caller who may not look and is told that all is well; an API server that is not there.
#[test]
fn what_cannot_be_seen_is_not_good() {
    let mut cluster = Cluster::start();
    cluster.api.inject(Fault::status("networkpolicies", 403));
    let (status, said) = cluster.told();
    assert!(status == Some(2) && said.contains("you may not list them"), "{said}");
    cluster.api.stop();
    let silent = cluster.check(&[]);
    assert_eq!(silent.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&silent.stderr).contains("API server"), "{silent:?}");
}
