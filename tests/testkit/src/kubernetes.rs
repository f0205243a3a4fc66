//! Pods and namespaces of a mesh as an API server holds them, and the CNI plugin as a container runtime runs it.

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{Mesh, Place, api_server::ApiServer};

/// Of a pod, by its name: the same in all that is told of it, and another in each mesh.
pub fn uid_of(mesh: &Mesh, name: &str) -> String {
    let text = format!("{}/{name}", mesh.topology().name());
    let sum = text.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(131).wrapping_add(byte.into()));
    format!("00000000-0000-4000-8000-{:012x}", sum & 0xffff_ffff_ffff)
}

pub fn namespace(name: &str, mode: Option<&str>) -> Value {
    let labels = mode.map_or(json!({}), |mode| json!({ "istio.io/dataplane-mode": mode }));
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// Scheduled on that node; it has no address until it runs.
pub fn pod(mesh: &Mesh, node: usize, name: &str, ips: &[IpAddr]) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "uid": uid_of(mesh, name), "labels": {} },
        "spec": {
            "nodeName": format!("node{node}"), "serviceAccountName": name,
            "containers": [{ "name": "app", "image": "app" }],
        },
        "status": { "phase": "Pending" },
    });
    if let Some(first) = ips.first() {
        let all: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        pod["status"] = json!({ "phase": "Running", "podIP": first, "podIPs": all });
    }
    pod
}

/// An API server outside of the nodes, which the mesh's daemons find by their kubeconfig.
pub fn api_server(mesh: &Mesh) -> Result<ApiServer> {
    let topology = mesh.topology();
    let server = ApiServer::start(topology.outside_ips()[0], Some(&topology.outside))?;
    server.write_kubeconfig(&mesh.kubeconfig(), "node")?;
    Ok(server)
}

/// The plugin, as the runtime of a node has it in its chain.
#[derive(Clone, Debug)]
pub struct Plugin {
    binary: PathBuf,
    place: Place,
    configuration: Value,
}

impl Plugin {
    /// With the node's daemon's socket.
    pub fn of(mesh: &Mesh, node: usize) -> Self {
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "ztunnel-cni",
            "socket": mesh.plugin_socket(node), "enrolledNamespaces": mesh.enrolled_namespaces(node),
            "exemptNamespaces": ["kube-system"], "timeoutSeconds": 20,
        });
        let binary = mesh.binary().with_file_name("ztunnel-cni");
        Self { binary, place: mesh.node(node).host.clone(), configuration }
    }

    pub fn waits_for(mut self, seconds: u16) -> Self {
        self.configuration["timeoutSeconds"] = seconds.into();
        self
    }

    /// What the plugins before it have said of a pod.
    pub fn result(ips: &[IpAddr]) -> Value {
        let address = |ip: &IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 });
        let ips: Vec<Value> =
            ips.iter().map(|ip| json!({ "address": address(ip), "interface": 0 })).collect();
        json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0" }], "ips": ips, "dns": {} })
    }

    /// Runs it, and answers with what it printed if it succeeded, else with its error.
    pub fn call(&self, command: &str, pod: &Sandbox<'_>) -> Result<std::result::Result<String, Value>> {
        let Output { status, stdout, stderr } = self.run(command, pod)?;
        let stdout = String::from_utf8(stdout)?;
        if status.success() {
            return Ok(Ok(stdout));
        }
        let complaint = String::from_utf8_lossy(&stderr).into_owned();
        ensure!(complaint.is_empty(), "on standard error: {complaint}");
        Ok(Err(serde_json::from_str(&stdout).with_context(|| format!("no CNI error: {stdout}"))?))
    }

    fn run(&self, command: &str, pod: &Sandbox<'_>) -> Result<Output> {
        let mut configuration = self.configuration.clone();
        if command != "DEL" {
            configuration["prevResult"] = Self::result(&pod.ips);
        }
        let Sandbox { namespace, name, container, uid, .. } = pod;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container};\
             K8S_POD_UID={uid}"
        );
        let mut plugin = Command::new(&self.binary);
        plugin.env_clear().envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", &pod.netns.display().to_string()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &arguments),
            ("CNI_PATH", "/opt/cni/bin"),
        ]);
        plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let binary = self.binary.clone();
        self.place.run(move || {
            let mut child = plugin.spawn().with_context(|| format!("running {}", binary.display()))?;
            child
                .stdin
                .take()
                .context("no standard input")?
                .write_all(configuration.to_string().as_bytes())?;
            Ok(child.wait_with_output()?)
        })
    }
}

/// A pod's sandbox, as the runtime tells of it.
#[derive(Clone, Debug)]
pub struct Sandbox<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub container: &'a str,
    pub netns: PathBuf,
    pub ips: Vec<IpAddr>,
    pub uid: String,
}

impl<'a> Sandbox<'a> {
    pub fn of(mesh: &Mesh, name: &'a str) -> Self {
        let pod = mesh.pod(name);
        Self {
            namespace: "default",
            name,
            container: "sandbox-1",
            netns: pod.netns(),
            ips: pod.ips().to_vec(),
            uid: uid_of(mesh, name),
        }
    }
}

/// Where a node's daemon and its plugin meet.
pub(crate) fn settings(directory: &Path, kubeconfig: &Path, own: &str) -> [(String, Value); 3] {
    [
        ("podSource".to_owned(), json!("kubernetes")),
        ("kubernetes".to_owned(), json!({ "kubeconfig": kubeconfig, "ownNamespace": own })),
        (
            "cni".to_owned(),
            json!({ "plugin": {
                "socket": directory.join("cni.sock"),
                "enrolledNamespaces": directory.join("enrolled-namespaces"),
            }}),
        ),
    ]
}
