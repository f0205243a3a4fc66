//! What a mesh shall be.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use super::Mesh;

/// How one pod is treated.
#[derive(Clone, Debug)]
pub struct PodPlan {
    /// Whether the daemon serves it; the state still knows it as a workload if `in_state`.
    pub enrolled: bool,
    pub in_state: bool,
    /// Another proxy than ours stands for it: the state says HBONE, and no daemon serves it.
    pub foreign: bool,
    pub fail_open: bool,
    pub strict: bool,
    pub exclude_outbound_ports: Vec<u16>,
    pub exclude_inbound_ports: Vec<u16>,
    pub policies: Vec<String>,
    /// What the state says of it besides, or otherwise.
    pub workload: Map<String, Value>,
}

impl Default for PodPlan {
    fn default() -> Self {
        Self {
            enrolled: true,
            in_state: true,
            foreign: false,
            fail_open: false,
            strict: false,
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
            policies: Vec::new(),
            workload: Map::new(),
        }
    }
}

impl PodPlan {
    /// One field of the workload in the state.
    pub fn says(&mut self, field: &str, value: impl Into<Value>) {
        self.workload.insert(field.to_owned(), value.into());
    }
}

#[derive(Clone, Debug)]
pub struct MeshPlan {
    pub(super) nodes: Vec<String>,
    pub(super) binary: PathBuf,
    /// Those that differ from the default.
    pub pods: BTreeMap<String, PodPlan>,
    /// As in the state file; workloads besides the pods.
    pub workloads: Vec<Value>,
    pub services: Vec<Value>,
    pub policies: Vec<Value>,
    /// A CNI redirects the pods and names them, so the daemons have no list of their own.
    pub cni: bool,
    /// A seccomp profile that the daemons are confined to.
    pub seccomp: Option<PathBuf>,
    /// Kubernetes names the pods: an API server, which is to be started, and the CNI plugin.
    pub kubernetes: bool,
    /// What Istio's manifests set for all nodes; the daemons are started by it, and have no configuration file.
    pub istio: Option<BTreeMap<String, String>>,
    /// More of the daemons' configuration.
    pub settings: Map<String, Value>,
    /// The same for one node.
    pub node_settings: BTreeMap<u8, Map<String, Value>>,
}

impl MeshPlan {
    pub fn new(nodes: &[&str]) -> Self {
        Self {
            nodes: nodes.iter().map(|&pods| pods.to_owned()).collect(),
            binary: default_binary(),
            pods: BTreeMap::new(),
            workloads: Vec::new(),
            services: Vec::new(),
            policies: Vec::new(),
            cni: false,
            seccomp: None,
            kubernetes: false,
            istio: None,
            settings: Map::new(),
            node_settings: BTreeMap::new(),
        }
    }

    /// The daemon's binary; by default the one built beside this program, or the one in `ZTUNNEL_BIN`.
    pub fn binary(mut self, path: PathBuf) -> Self {
        self.binary = path;
        self
    }

    /// Says how a pod differs from an ordinary one.
    pub fn pod(mut self, name: &str, change: impl FnOnce(&mut PodPlan)) -> Self {
        change(self.pods.entry(name.to_owned()).or_default());
        self
    }

    pub fn workload(mut self, workload: Value) -> Self {
        self.workloads.push(workload);
        self
    }

    pub fn service(mut self, service: Value) -> Self {
        self.services.push(service);
        self
    }

    pub fn policy(mut self, policy: Value) -> Self {
        self.policies.push(policy);
        self
    }

    /// The CNI's agents are to be started for themselves, before the daemons or after.
    pub fn cni(mut self) -> Self {
        self.cni = true;
        self
    }

    /// The daemons are confined to this profile.
    pub fn seccomp(mut self, profile: PathBuf) -> Self {
        self.seccomp = Some(profile);
        self
    }

    /// The API server is to be started before the daemons ([`crate::kubernetes::api_server`]).
    pub fn kubernetes(mut self) -> Self {
        self.kubernetes = true;
        self
    }

    /// One more setting of the daemons' configuration file.
    pub fn setting(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// Builds the nodes and starts their daemons.
    pub fn start(self) -> Result<Mesh> {
        let mut mesh = self.build()?;
        for node in 1..=mesh.topology().nodes.len() {
            mesh.start_daemon(node)?;
        }
        Ok(mesh)
    }

    /// Builds the nodes and starts no daemon.
    pub fn build(self) -> Result<Mesh> {
        Mesh::build(self)
    }

    pub(super) fn of(&self, pod: &str) -> PodPlan {
        self.pods.get(pod).cloned().unwrap_or_default()
    }
}

fn default_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ZTUNNEL_BIN") {
        return path.into();
    }
    let here = std::env::current_exe().unwrap_or_default();
    // A test is in target/<profile>/deps, the daemon one above.
    let directory = here.ancestors().skip(1).find(|directory| !directory.ends_with("deps"));
    directory.map(|directory| directory.join("ztunnel")).unwrap_or_else(|| "ztunnel".into())
}
