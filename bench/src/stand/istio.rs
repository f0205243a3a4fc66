//! What a proxy needs that knows Istio's environment alone: a control plane, a CA, a CNI that redirects the pods by its
//! rules and names them over ZDS. Ours takes the same place, as `proxy ztunnel`.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use anyhow::{Result, ensure};
use testkit::{
    Mesh, MeshPlan,
    ca::Ca,
    cni::{CniAgent, redirect},
    control_plane::ControlPlane,
};

const TOKEN: &str = "the-token-of-the-daemonset";
const CA_PORT: u16 = 15012;

/// All that is around the proxies; it ends after them.
pub(super) struct Istio {
    /// One for each node.
    agents: Vec<CniAgent>,
    control_plane: ControlPlane,
    _ca: Ca,
}

impl Istio {
    /// Starts a proxy on each node.
    pub(super) fn start(plan: MeshPlan) -> Result<(Mesh, Self)> {
        let mut mesh = plan.cni().build()?;
        let outside = mesh.topology().outside.clone();
        let ip = mesh.topology().outside_ips()[0];
        let control_plane = ControlPlane::start(ip, Some(&outside))?;
        control_plane.tell_mesh(&mesh.state())?;
        let ca = Ca::start(&outside, SocketAddr::new(ip, CA_PORT), 1)?;
        mount(&mesh, &format!("{}{}", control_plane.root_pem(), ca.tls_root_pem()))?;
        let variables = [
            ("XDS_ADDRESS", format!("https://{}", control_plane.address())),
            ("CA_ADDRESS", format!("https://{}", ca.address())),
            ("CLUSTER_ID", "Kubernetes".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ];
        let variables: BTreeMap<_, _> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        mesh.change(|plan| plan.istio = Some(variables))?;
        let mut agents = Vec::new();
        for node in 1..=mesh.topology().nodes.len() {
            let pods = mesh.cni_pods(node);
            pods.iter().try_for_each(|pod| redirect(mesh.pod(&pod.name)))?;
            agents.push(CniAgent::start(&mesh.zds_socket(mesh.node(node)), pods)?);
            mesh.start_daemon(node)?;
        }
        let istio = Self { agents, control_plane, _ca: ca };
        istio.wait_for_agents()?;
        Ok((mesh, istio))
    }

    fn wait_for_agents(&self) -> Result<()> {
        super::wait_until("the proxies have taken their pods", || {
            self.agents.iter().all(|agent| agent.connections() > 0)
        })?;
        for agent in &self.agents {
            ensure!(agent.refusals().is_empty(), "a proxy refuses its pods: {:?}", agent.refusals());
        }
        Ok(())
    }

    /// The proxy of the first node has taken the pod when this returns.
    pub(super) fn enrol(&self, mesh: &Mesh, pod: &str) -> Result<()> {
        redirect(mesh.pod(pod))?;
        let refusal = self.agents[0].add(&mesh.cni_pod(pod))?;
        ensure!(refusal.is_none(), "the proxy refuses {pod}: {refusal:?}");
        Ok(())
    }

    pub(super) fn tell(&self, mesh: &Mesh) -> Result<()> {
        self.control_plane.tell_mesh(&mesh.state())
    }
}

/// Where Istio's manifests mount them.
fn mount(mesh: &Mesh, roots: &str) -> Result<()> {
    let secrets = mesh.directory().join("var/run/secrets");
    for (directory, file, text) in [("istio", "root-cert.pem", roots), ("tokens", "istio-token", TOKEN)] {
        fs::create_dir_all(secrets.join(directory))?;
        fs::write(secrets.join(directory).join(file), text)?;
    }
    Ok(())
}
