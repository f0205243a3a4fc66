//! A real API server over a real etcd, in processes of their own, as `KUBE_APISERVER` and `ETCD` name them.
//!
//! No kubelet and no controller manager run: pods are where the test says, and are what their status is set to.

use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kubernetes::{
    k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    k8s_openapi::api::core::v1::ServiceAccount,
    kube::{
        Api, Client,
        api::{DeleteParams, Patch, PatchParams, PostParams},
        core::{ApiResource, DynamicObject, GroupVersionKind},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::within;

const TOKEN: &str = "the-administrator";

pub(super) struct RealServer {
    children: Vec<Child>,
    port: u16,
    runtime: Runtime,
    client: Client,
    _directory: TempDir,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        // The API server before what it stands on.
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl RealServer {
    /// `None` if no binaries are named. Named ones that do not run are a failure.
    pub(super) fn start() -> Option<Self> {
        let (server, etcd) = (std::env::var_os("KUBE_APISERVER")?, std::env::var_os("ETCD")?);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let [port, store, peers] = free_ports();
        let mut command = Command::new(etcd);
        command.arg("--data-dir").arg(path.join("etcd"));
        command.args(["--listen-client-urls", &local(store), "--advertise-client-urls", &local(store)]);
        command.args(["--listen-peer-urls", &local(peers), "--initial-advertise-peer-urls", &local(peers)]);
        command.args(["--initial-cluster", &format!("default={}", local(peers))]);
        let etcd = spawn(command, &path.join("etcd.log"));
        let server = spawn(api_server(server.into(), path, port, store), &path.join("server.log"));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let file = path.join("kubeconfig");
        fs::write(&file, kubeconfig(port).to_string()).unwrap();
        let client = runtime.block_on(kubernetes::connect(Some(&file))).unwrap();
        let real = Self { children: vec![etcd, server], port, runtime, client, _directory: directory };
        within(Duration::from_secs(120), "the API server answers", || {
            real.get("v1", "namespaces", "", "kube-system")
        });
        for crd in kubernetes::policies::crds() {
            real.apply(&serde_saphyr::from_str(crd).unwrap());
        }
        for plural in ["authorizationpolicies", "peerauthentications"] {
            within(Duration::from_secs(30), "the CRDs are served", || {
                let api = real.api(&json!({ "apiVersion": "security.istio.io/v1", "kind": "X" }), plural);
                real.runtime.block_on(api.list(&Default::default())).ok()
            });
        }
        Some(real)
    }

    pub(super) fn kubeconfig(&self) -> Value {
        kubeconfig(self.port)
    }

    fn api(&self, object: &Value, plural: &str) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        match object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    fn named(&self, api_version: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
        let object =
            json!({ "apiVersion": api_version, "kind": "X", "metadata": { "namespace": namespace } });
        self.api(&object, plural)
    }

    pub(super) fn apply(&self, object: &Value) {
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        let plural = match kind.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{kind}s"),
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        let parameters = PatchParams::apply("test").force();
        let api = self.api(object, &plural);
        self.runtime.block_on(api.patch(name, &parameters, &Patch::Apply(object))).unwrap();
    }

    pub(super) fn get(&self, api_version: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let api = self.named(api_version, plural, namespace);
        let found = self.runtime.block_on(api.get_opt(name)).ok()??;
        serde_json::to_value(found).ok()
    }

    pub(super) fn delete(&self, api_version: &str, plural: &str, namespace: &str, name: &str) {
        let api = self.named(api_version, plural, namespace);
        // No kubelet would confirm the end of a pod.
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.runtime.block_on(api.delete(name, &parameters)).unwrap();
    }

    pub(super) fn set_status(
        &self,
        api_version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        status: &Value,
    ) {
        let api = self.named(api_version, plural, namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        self.runtime.block_on(api.patch_status(name, &PatchParams::default(), &patch)).unwrap();
    }

    pub(super) fn token(&self, namespace: &str, account: &str, pod: &str, audience: &str) -> String {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let uid =
            self.get("v1", "pods", namespace, pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.into()),
            uid: Some(uid),
        };
        let spec = TokenRequestSpec {
            audiences: vec![audience.into()],
            bound_object_ref: Some(bound),
            expiration_seconds: Some(3600),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let made = self.runtime.block_on(api.create_token_request(account, &PostParams::default(), &request));
        made.unwrap().status.unwrap().token
    }
}

fn api_server(binary: std::path::PathBuf, directory: &Path, port: u16, store: u16) -> Command {
    let key = rcgen::KeyPair::generate().unwrap();
    let [secret, public, tokens] =
        ["accounts.key", "accounts.pub", "tokens.csv"].map(|name| directory.join(name));
    fs::write(&secret, key.serialize_pem()).unwrap();
    fs::write(&public, key.public_key_pem()).unwrap();
    fs::write(&tokens, format!("{TOKEN},admin,admin,\"system:masters\"\n")).unwrap();
    let mut command = Command::new(binary);
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    command.args([
        flag("etcd-servers", &local(store)),
        flag("bind-address", "127.0.0.1"),
        flag("secure-port", &port.to_string()),
        flag("cert-dir", &directory.join("certificates").display().to_string()),
        flag("service-cluster-ip-range", "10.96.0.0/16"),
        flag("service-account-issuer", "https://kubernetes.default.svc"),
        flag("service-account-signing-key-file", &secret.display().to_string()),
        flag("service-account-key-file", &public.display().to_string()),
        flag("token-auth-file", &tokens.display().to_string()),
        flag("authorization-mode", "RBAC"),
        // Nobody makes the tokens that it would mount, nor tells nodes to be ready.
        flag("disable-admission-plugins", "ServiceAccount"),
    ]);
    command
}

fn kubeconfig(port: u16) -> Value {
    let server = format!("https://127.0.0.1:{port}");
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": server, "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "test", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    })
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let mut file = File::create(log).unwrap();
    writeln!(file, "{command:?}").unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn free_ports() -> [u16; 3] {
    // All at once, so that none is given twice.
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
