//! A cluster's API: two nodes with a daemon and a pod each, whichever server holds them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::api_server::{ApiServer, Reviewed};

mod real;

use super::OWN;
use real::RealServer;

/// Of nodes; each has the daemon `ztunnel-N`, and the pod `pod-N` of service account `account-N` in the namespace `shop`.
pub(crate) const NODES: [u8; 2] = [1, 2];

enum Server {
    Test(ApiServer),
    Real(RealServer),
}

pub(crate) struct Cluster {
    server: Server,
    directory: TempDir,
}

impl Cluster {
    /// With the test server, and with the real one if there is one.
    pub(crate) fn each(test: impl Fn(Self)) {
        test(Self::start(Server::Test(ApiServer::start([127, 0, 0, 1].into(), None).unwrap())));
        match RealServer::start() {
            Some(server) => test(Self::start(Server::Real(server))),
            None => eprintln!("NOT TRIED with a real API server: KUBE_APISERVER and ETCD name no binaries"),
        }
    }

    /// With the test server alone: what a real one cannot be told to do.
    pub(crate) fn of_test() -> Self {
        Self::start(Server::Test(ApiServer::start([127, 0, 0, 1].into(), None).unwrap()))
    }

    fn start(server: Server) -> Self {
        let cluster = Self { server, directory: tempfile::tempdir().unwrap() };
        let kubeconfig = match &cluster.server {
            Server::Test(server) => server.kubeconfig("controller"),
            Server::Real(server) => server.kubeconfig(),
        };
        std::fs::write(cluster.kubeconfig(), kubeconfig.to_string()).unwrap();
        let labels = json!({ "istio.io/dataplane-mode": "ambient" });
        cluster.put(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": OWN } }));
        cluster.put(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": labels } }));
        cluster.put(&account(OWN, "ztunnel"));
        for number in NODES {
            let node = format!("node-{number}");
            cluster.put(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } }));
            cluster.put(&account("shop", &format!("account-{number}")));
            cluster.put(&pod(OWN, &format!("ztunnel-{number}"), "ztunnel", &node));
            cluster.put(&pod("shop", &format!("pod-{number}"), &format!("account-{number}"), &node));
            cluster.run(&format!("pod-{number}"), &format!("10.0.0.{number}"));
        }
        cluster
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// The server whose faults are ours to order.
    pub(crate) fn test(&self) -> &ApiServer {
        match &self.server {
            Server::Test(server) => server,
            Server::Real(_) => panic!("a real server takes no orders"),
        }
    }

    pub(crate) fn put(&self, object: &Value) {
        match &self.server {
            Server::Test(server) => server.put(object.clone()).unwrap(),
            Server::Real(server) => server.apply(object),
        }
    }

    pub(crate) fn get(&self, api_version: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        match &self.server {
            Server::Test(server) => server.object(api_version, plural, namespace, name),
            Server::Real(server) => server.get(api_version, plural, namespace, name),
        }
    }

    pub(crate) fn delete(&self, api_version: &str, plural: &str, namespace: &str, name: &str) {
        match &self.server {
            Server::Test(server) => drop(server.delete(api_version, plural, namespace, name)),
            Server::Real(server) => server.delete(api_version, plural, namespace, name),
        }
    }

    /// A pod of `shop` has an address by now.
    pub(crate) fn run(&self, name: &str, ip: &str) {
        let status = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] });
        match &self.server {
            Server::Test(server) => {
                let mut pod = server.object("v1", "pods", "shop", name).unwrap();
                pod["status"] = status;
                server.put(pod).unwrap();
            }
            Server::Real(server) => server.set_status("v1", "pods", "shop", name, &status),
        }
    }

    /// The token that the kubelet would give the daemon of a node.
    pub(crate) fn token(&self, node: u8, audience: &str) -> String {
        let name = format!("ztunnel-{node}");
        match &self.server {
            Server::Test(server) => {
                let token = format!("token-of-{name}-for-{audience}");
                let reviewed = Reviewed::pod(OWN, "ztunnel", &name, &format!("node-{node}"), audience);
                server.accept_token(&token, reviewed);
                token
            }
            Server::Real(server) => server.token(OWN, "ztunnel", &name, audience),
        }
    }

    /// The roots that daemons mount, once they are there.
    pub(crate) fn roots(&self) -> Option<String> {
        let map = self.get("v1", "configmaps", OWN, "istio-ca-root-cert")?;
        Some(map["data"]["root-cert.pem"].as_str()?.to_owned())
    }
}

fn account(namespace: &str, name: &str) -> Value {
    let metadata = json!({ "name": name, "namespace": namespace });
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })
}

pub(crate) fn pod(namespace: &str, name: &str, account: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "nodeName": node, "serviceAccountName": account,
            "containers": [{ "name": "app", "image": "registry.example/app:1" }],
        },
    })
}
