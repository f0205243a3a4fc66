//! Where it is measured: two nodes with a mesh, and the same two nodes without one.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use testkit::{Mesh, MeshPlan, Pod, Process};

use crate::{load, options::Options};

mod lane;

pub(crate) use lane::{Lane, Sample};

/// Each opens thousands of connections to the same few addresses; a port that waits in TIME_WAIT may be taken again.
const SYSCTLS: [(&str, &str); 1] = [("net.ipv4.tcp_tw_reuse", "1")];

/// Nodes with pods, a server in those that are called.
pub(crate) struct Stand {
    // In order of destruction: whoever talks ends before the nodes.
    servers: Vec<Process>,
    pub(crate) mesh: Mesh,
}

impl Stand {
    /// With a daemon on each node.
    pub(crate) fn with_mesh(options: &Options, plan: MeshPlan) -> Result<Self> {
        Self::around(
            plan.binary(options.daemon.clone())
                .setting("accessLog", serde_json::json!({ "mode": "all" }))
                .start()?,
        )
    }

    /// The same places, and nothing that redirects.
    pub(crate) fn bare(plan: MeshPlan) -> Result<Self> {
        Self::around(plan.build()?)
    }

    fn around(mesh: Mesh) -> Result<Self> {
        for pod in mesh.topology().nodes.iter().flat_map(|node| &node.pods) {
            SYSCTLS.into_iter().try_for_each(|(name, value)| pod.sysctl(name, value))?;
        }
        Ok(Self { servers: Vec::new(), mesh })
    }

    /// A server in this pod, and the process that it is.
    pub(crate) fn serve(&mut self, pod: &str) -> Result<u32> {
        self.keep(load::start::server(self.mesh.pod(pod), &[])?)
    }

    pub(crate) fn serve_outside(&mut self) -> Result<u32> {
        self.keep(load::start::server(&self.mesh.topology().outside, &[])?)
    }

    pub(crate) fn relay(&mut self, pod: &str, from: SocketAddr, to: SocketAddr) -> Result<u32> {
        self.keep(load::start::relay(self.mesh.pod(pod), from, to)?)
    }

    fn keep(&mut self, process: Process) -> Result<u32> {
        let id = process.id();
        self.servers.push(process);
        Ok(id)
    }

    pub(crate) fn ip(&self, pod: &str) -> IpAddr {
        Pod::ips(self.mesh.pod(pod))[0]
    }

    pub(crate) fn outside_ip(&self) -> IpAddr {
        self.mesh.topology().outside_ips()[0]
    }

    pub(crate) fn daemons(&self) -> Vec<u32> {
        self.mesh.daemons().map(testkit::Daemon::id).collect()
    }
}
