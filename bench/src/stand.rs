//! Where it is measured: two nodes with a mesh, and the same two nodes without one.

use std::{
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{Mesh, MeshPlan, Pod, Process};

use crate::{load, measure::processor, options::Options};

mod istio;
mod lane;

use istio::Istio;
pub(crate) use lane::{Lane, Sample};

const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes with pods, a server in those that are called.
pub(crate) struct Stand {
    servers: Vec<Process>,
    pub(crate) mesh: Mesh,
    istio: Option<Istio>,
    /// Besides those that the plan enrols.
    enrolled: Vec<String>,
}

impl Stand {
    /// With a daemon on each node, or what is to stand in its place.
    pub(crate) fn with_mesh(options: &Options, plan: MeshPlan) -> Result<Self> {
        let log_all = json!({ "mode": "all" });
        match &options.proxy {
            None => {
                let plan = plan.binary(options.daemon.clone()).setting("accessLog", log_all);
                Ok(Self::around(plan.start()?, None))
            }
            Some(_) => Self::behind_a_control_plane(options, plan),
        }
    }

    /// Told by a control plane what there is, whoever stands there.
    pub(crate) fn behind_a_control_plane(options: &Options, plan: MeshPlan) -> Result<Self> {
        let binary = options.proxy.as_ref().unwrap_or(&options.daemon);
        // It is started in a directory of its own.
        let (mesh, istio) = Istio::start(plan.binary(std::path::absolute(binary)?))?;
        Ok(Self::around(mesh, Some(istio)))
    }

    /// Changes what there is, and tells of it.
    pub(crate) fn tell(&mut self, change: impl FnOnce(&mut MeshPlan)) -> Result<()> {
        self.mesh.change(change)?;
        self.istio.iter().try_for_each(|istio| istio.tell(&self.mesh))
    }

    /// The same places, and nothing that redirects.
    pub(crate) fn bare(plan: MeshPlan) -> Result<Self> {
        Ok(Self::around(plan.build()?, None))
    }

    fn around(mesh: Mesh, istio: Option<Istio>) -> Self {
        Self { servers: Vec::new(), mesh, istio, enrolled: Vec::new() }
    }

    /// Enrols pods of the first node that the plan had left out, and waits for it.
    pub(crate) fn enrol(&mut self, names: &[String]) -> Result<()> {
        let enrol = |name: &String| names.contains(name);
        let fresh: Vec<String> =
            names.iter().filter(|name| !self.enrolled.contains(*name)).cloned().collect();
        self.mesh.change(|plan| {
            let named = plan.pods.iter_mut().filter(|(name, _)| enrol(name));
            named.for_each(|(_, pod)| (pod.enrolled, pod.in_state) = (true, true));
        })?;
        self.enrolled.extend(fresh.iter().cloned());
        if let Some(istio) = &self.istio {
            istio.tell(&self.mesh)?;
            return fresh.iter().try_for_each(|pod| istio.enrol(&self.mesh, pod));
        }
        wait_until("all pods are enrolled", || {
            let pods = self.mesh.daemon(1).admin("/pods").unwrap_or_default();
            let is_enrolled = |uid: String| {
                let mut pods = pods.as_array().into_iter().flatten();
                pods.any(|pod| pod["uid"] == uid && pod["enrolled"] == true)
            };
            names.iter().all(|name| is_enrolled(Mesh::uid(name)))
        })
    }

    /// A server in this pod, and the process that it is.
    pub(crate) fn serve(&mut self, pod: &str) -> Result<u32> {
        self.keep(load::start::server(self.mesh.pod(pod), &[])?)
    }

    /// One server for all of these pods.
    pub(crate) fn serve_many(&mut self, first: &str, others: &[String]) -> Result<u32> {
        let others: Vec<_> = others.iter().map(|pod| self.mesh.pod(pod).netns()).collect();
        self.keep(load::start::server(self.mesh.pod(first), &others)?)
    }

    pub(crate) fn serve_outside(&mut self) -> Result<u32> {
        self.keep(load::start::server(&self.mesh.topology().outside, &[])?)
    }

    pub(crate) fn relay(&mut self, pod: &str, from: SocketAddr, to: SocketAddr) -> Result<u32> {
        self.keep(load::start::relay(self.mesh.pod(pod), from, to)?)
    }

    pub(crate) fn echo_at(&mut self, pod: &str, port: u16) -> Result<u32> {
        self.keep(load::start::echo_at(self.mesh.pod(pod), port)?)
    }

    /// The programs steer the pod's connections to what echoes them; there is no daemon.
    pub(crate) fn steer(&mut self, pod: &str) -> Result<u32> {
        let mesh = &self.mesh;
        self.keep(load::start::steer(mesh.node(1), mesh.pod(pod), &mesh.bpf_directory(1))?)
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

impl Drop for Stand {
    /// Whoever talks ends first, then the daemons, then what is around them, and last the nodes.
    fn drop(&mut self) {
        self.servers.clear();
        for node in 1..=self.mesh.topology().nodes.len() {
            drop(self.mesh.take_daemon(node));
        }
        self.istio = None;
    }
}

/// Asks until it is so; for what takes longer than a moment.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        ensure!(Instant::now() < give_up, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Waits until a process has nothing more to do: less than a hundredth of a processor for half a second.
pub(crate) fn settle(process: u32) -> Result<()> {
    let mut before = processor::time_of(process)?;
    wait_until("a process comes to rest", || {
        sleep(Duration::from_millis(500));
        let now = processor::time_of(process).unwrap_or_default();
        let worked = now.saturating_sub(before);
        before = now;
        worked < Duration::from_millis(5)
    })
}
