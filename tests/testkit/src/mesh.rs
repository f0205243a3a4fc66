//! A topology with a mesh over it: the files that describe it, one authority, one daemon per node.
//!
//! Every pod has the identity `spiffe://cluster.local/ns/default/sa/<its name>`.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{
    Daemon, Node, Pod, Topology,
    cni::CniPod,
    daemon::{How, Launch},
    kubernetes,
    requirements::BPFFS,
};

mod files;
mod plan;

pub use plan::{MeshPlan, PodPlan};

/// A running mesh. Dropping it ends the daemons first, then takes the nodes down.
#[derive(Debug)]
pub struct Mesh {
    /// `None` while a node's daemon is dead.
    daemons: Vec<Option<Daemon>>,
    topology: Topology,
    plan: MeshPlan,
    directory: PathBuf,
}

impl Mesh {
    /// All pods enrolled, over `&["client", "server other"]`: one item for each node.
    pub fn start(nodes: &[&str]) -> Result<Self> {
        MeshPlan::new(nodes).start()
    }

    pub(crate) fn build(plan: MeshPlan) -> Result<Self> {
        let nodes: Vec<&str> = plan.nodes.iter().map(String::as_str).collect();
        let topology = Topology::build(&nodes)?;
        let directory = std::env::temp_dir().join(topology.name());
        fs::create_dir(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let daemons = topology.nodes.iter().map(|_| None).collect();
        let mesh = Self { daemons, topology, plan, directory };
        mesh.write_state()?;
        for node in &mesh.topology.nodes {
            fs::create_dir(mesh.node_directory(node))?;
            mesh.write_pods(node)?;
        }
        Ok(mesh)
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    #[track_caller]
    pub fn pod(&self, name: &str) -> &Pod {
        self.topology.pod(name)
    }

    /// Where a server listens in the pod: `family` 0 is IPv4, 1 is IPv6.
    #[track_caller]
    pub fn address(&self, pod: &str, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod(pod).ips()[family], port)
    }

    /// Nodes count from 1.
    #[track_caller]
    pub fn node(&self, number: usize) -> &Node {
        &self.topology.nodes[number - 1]
    }

    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test that asks a dead daemon is wrong")]
    pub fn daemon(&self, node: usize) -> &Daemon {
        self.daemons[node - 1].as_ref().expect("this node's daemon is running")
    }

    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.iter().flatten()
    }

    /// What identifies a pod to the daemons.
    pub fn uid(pod: &str) -> String {
        format!("Kubernetes//Pod/default/{pod}")
    }

    pub fn identity(pod: &str) -> String {
        format!("spiffe://cluster.local/ns/default/sa/{pod}")
    }

    /// Starts the node's daemon and waits until it serves.
    pub fn start_daemon(&mut self, node: usize) -> Result<()> {
        let daemon = self.launch(node, &self.node(node).daemon.clone())?;
        daemon.wait_until_ready()?;
        self.daemons[node - 1] = Some(daemon);
        Ok(())
    }

    /// Starts another daemon for the node in a pod of its own, as a rolling update does, and does not wait.
    pub fn launch_beside(&mut self, node: usize) -> Result<Daemon> {
        let nodes = &mut self.topology.nodes;
        let name = format!("newer{node}-{}-daemon", nodes[node - 1].pods.len());
        let place = nodes[node - 1].add_pod(&name)?.place.clone();
        self.launch(node, &place)
    }

    /// Takes the daemon out; dropping it kills it.
    pub fn take_daemon(&mut self, node: usize) -> Option<Daemon> {
        self.daemons[node - 1].take()
    }

    /// Puts a daemon in as the node's own.
    pub fn put_daemon(&mut self, node: usize, daemon: Daemon) {
        self.daemons[node - 1] = Some(daemon);
    }

    /// Changes the plan, and tells the daemons by their files.
    pub fn change(&mut self, change: impl FnOnce(&mut MeshPlan)) -> Result<()> {
        change(&mut self.plan);
        self.write_state()?;
        self.topology.nodes.iter().try_for_each(|node| self.write_pods(node))
    }

    /// Changes a daemon's file as a person would who bypasses the plan; the next change of the plan undoes it.
    pub fn edit(&self, file: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut value = serde_json::from_str(&fs::read_to_string(file)?)?;
        change(&mut value);
        files::write(file, &value)
    }

    /// Adds a pod to a node and to the mesh.
    pub fn add_pod(&mut self, node: usize, name: &str) -> Result<()> {
        self.topology.nodes[node - 1].add_pod(name)?;
        self.change(|_| ())
    }

    /// Deletes a pod from the mesh and from its node. `name`'s namespace goes with the returned pod.
    pub fn take_pod(&mut self, node: usize, name: &str) -> Result<Pod> {
        let pod = self.topology.nodes[node - 1].take_pod(name).context("no such pod")?;
        self.change(|_| ())?;
        Ok(pod)
    }

    /// Takes a pod off its node, and tells nobody: neither state nor pods file changes.
    pub fn vanish(&mut self, name: &str) -> Result<Pod> {
        let pod = self.topology.nodes.iter_mut().find_map(|node| node.take_pod(name));
        pod.context("no such pod")
    }

    pub fn pods_file(&self, node: usize) -> PathBuf {
        self.node_directory(self.node(node)).join("pods.yaml")
    }

    /// What the state file says; for a control plane to tell instead of it.
    pub fn state(&self) -> Value {
        files::state(&self.topology, &self.plan)
    }

    pub fn state_file(&self) -> PathBuf {
        self.directory.join("state.yaml")
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the node's daemons pin what outlives them.
    pub fn bpf_directory(&self, node: usize) -> PathBuf {
        bpf_directory(&self.topology, self.node(node))
    }

    /// The node's pods as a CNI's agent knows them.
    pub fn cni_pods(&self, node: usize) -> Vec<CniPod> {
        let names = self.node(node).pods.iter().map(|pod| pod.name());
        names.filter(|name| self.plan.of(name).enrolled).map(|name| self.cni_pod(name)).collect()
    }

    pub fn cni_pod(&self, name: &str) -> CniPod {
        CniPod {
            uid: format!("uid-{name}"),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: name.to_owned(),
            netns: self.pod(name).netns(),
        }
    }

    /// Where the node's daemon looks for a CNI's agent.
    pub fn zds_socket(&self, node: &Node) -> PathBuf {
        self.node_directory(node).join("zds.sock")
    }

    /// How the daemons reach the API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Where the node's daemon answers the CNI plugin.
    pub fn plugin_socket(&self, node: usize) -> PathBuf {
        self.node_directory(self.node(node)).join("cni.sock")
    }

    pub fn enrolled_namespaces(&self, node: usize) -> PathBuf {
        self.node_directory(self.node(node)).join("enrolled-namespaces")
    }

    /// The daemon's.
    pub fn binary(&self) -> &Path {
        &self.plan.binary
    }

    fn node_directory(&self, node: &Node) -> PathBuf {
        self.directory.join(format!("node{}", node.number))
    }

    /// Starts a daemon for the node there, and does not wait.
    pub fn launch(&self, number: usize, place: &crate::Place) -> Result<Daemon> {
        let node = self.node(number);
        let directory = self.node_directory(node);
        let config = directory.join(format!("{}.yaml", place.name()));
        let socket = directory.join(format!("{}.sock", place.name()));
        let mut settings = self.configuration(node);
        if settings["adminSocket"].is_null() {
            settings["adminSocket"] = json!(socket);
        }
        files::write(&config, &settings)?;
        let how = match &self.plan.istio {
            None => How::File(&config),
            Some(variables) => How::Istio(&self.directory, self.in_istio(node, place, &socket, variables)),
        };
        let launch = Launch {
            binary: &self.plan.binary,
            how,
            log: &directory.join(format!("{}.log", place.name())),
            socket: &socket,
            seccomp: self.plan.seccomp.as_deref(),
        };
        Daemon::launch(place, &launch)
    }

    /// With what differs from node to node, and where its root finds the daemon.
    fn in_istio(
        &self,
        node: &Node,
        place: &crate::Place,
        socket: &Path,
        variables: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let own = [
            ("NODE_NAME", format!("node{}", node.number)),
            ("POD_NAME", place.name().to_owned()),
            ("POD_NAMESPACE", "istio-system".to_owned()),
            ("INSTANCE_IP", format!("10.0.0.{}", node.number)),
            ("INPOD_UDS", self.zds_socket(node).display().to_string()),
            ("ZTUNNEL_ADMIN_SOCKET", socket.display().to_string()),
        ];
        own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(variables.clone()).collect()
    }

    fn configuration(&self, node: &Node) -> Value {
        let directory = self.node_directory(node);
        let mut settings = Map::new();
        for (key, value) in [
            ("nodeName", json!(format!("node{}", node.number))),
            ("stateFile", json!(self.state_file())),
            ("podsFile", json!(directory.join("pods.yaml"))),
            ("bpfDir", json!(bpf_directory(&self.topology, node))),
            ("cgroupRoot", json!(node.cgroup())),
            ("nodeNetns", json!(node.host.netns())),
            ("kubeletCgroup", json!(node.kubelet.cgroup())),
            ("caKey", json!(self.directory.join("ca.key"))),
            ("caCertificate", json!(self.directory.join("ca.pem"))),
            ("logFormat", json!("json")),
        ] {
            settings.insert(key.to_owned(), value);
        }
        if self.plan.cni {
            for key in ["podsFile", "cgroupRoot", "kubeletCgroup"] {
                settings.remove(key);
            }
            settings.insert("cni".to_owned(), json!({ "zdsSocket": self.zds_socket(node) }));
        }
        if self.plan.kubernetes {
            settings.remove("podsFile");
            settings.extend(kubernetes::settings(&directory, &self.kubeconfig(), "ztunnel-system"));
        }
        settings.extend(self.plan.settings.clone());
        settings.extend(self.plan.node_settings.get(&node.number).cloned().unwrap_or_default());
        if settings.contains_key("controlPlane") {
            settings.remove("stateFile");
        }
        Value::Object(settings)
    }

    fn write_state(&self) -> Result<()> {
        files::write(&self.state_file(), &files::state(&self.topology, &self.plan))
    }

    fn write_pods(&self, node: &Node) -> Result<()> {
        files::write(&self.node_directory(node).join("pods.yaml"), &files::pods(node, &self.plan))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.daemons.clear();
        if std::thread::panicking() {
            self.show_logs();
        }
        for node in &self.topology.nodes {
            // Not there if no daemon ran.
            let _ = fs::remove_dir_all(bpf_directory(&self.topology, node));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Mesh {
    /// What a person needs to see why a test failed.
    fn show_logs(&self) {
        for node in &self.topology.nodes {
            for entry in fs::read_dir(self.node_directory(node)).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_file() && path.extension().is_some_and(|extension| extension == "log") {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let end = lines[lines.len().saturating_sub(40)..].join("\n");
                    eprintln!("--- the end of {}:\n{end}", path.display());
                }
            }
        }
    }
}

fn bpf_directory(topology: &Topology, node: &Node) -> PathBuf {
    // bpffs refuses names with a dot.
    let topology = topology.name().replace('.', "-");
    Path::new(BPFFS).join(format!("{topology}-node{}", node.number))
}

/// The family's name in a failure's text.
pub fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
