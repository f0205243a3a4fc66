//! The daemon's configuration: layers of settings become one valid [`Config`], once.
//!
//! A layer is a tree as the configuration file has it: flags and environment are one, the file is one, and Istio's
//! environment is one ([`crate::istio`]). What none of them says has a default, which is that of [`Config`].

mod access_log;
mod certificates;
mod cni;
mod control_plane;
mod dns;
mod flags;
mod kubelet;
mod kubernetes;
mod layers;
mod limits;
mod same_node;
mod span;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use model::TrustDomain;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::limits::Limits;
pub(crate) use self::{
    access_log::AccessLog,
    certificates::CertificatesSection,
    cni::{Cni, Install, Plugin, Uninstall},
    control_plane::ControlPlaneSection,
    dns::Dns,
    flags::Flags,
    kubernetes::{Kubernetes, PodSourceKind},
    layers::{from_layers, read_layer},
    same_node::SameNode,
    span::Span,
};

pub(crate) const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/ztunnel";
pub(crate) const DEFAULT_CNI_BINARIES: &str = "/opt/cni/bin";
pub(crate) const DEFAULT_CNI_CONFIGURATIONS: &str = "/etc/cni/net.d";
pub(crate) const DEFAULT_ADMIN_SOCKET: &str = "/run/ztunnel/admin.sock";

/// What is in force; the file has these fields. Serializes into the admin endpoint's `/config_dump`: no secrets here, only
/// their paths. [`Flags`] says what each is that can be a flag, the sections say the rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) node_name: String,
    /// The daemon's own pod, of which it tells the control plane.
    pub(crate) pod_name: String,
    pub(crate) pod_namespace: String,
    pub(crate) pod_ip: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) cluster_id: String,
    pub(crate) state_file: Option<PathBuf>,
    /// `None` where a CNI's agent or Kubernetes names the pods.
    pub(crate) pods_file: Option<PathBuf>,
    pub(crate) bpf_dir: PathBuf,
    /// `None` where nothing of ours is attached.
    pub(crate) cgroup_root: Option<PathBuf>,
    pub(crate) node_netns: PathBuf,
    pub(crate) kubelet_cgroup: Option<PathBuf>,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) ca_key: Option<PathBuf>,
    pub(crate) ca_certificate: Option<PathBuf>,
    pub(crate) certificate_lifetime: Span,
    pub(crate) admin_socket: PathBuf,
    pub(crate) admin_address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    pub(crate) readiness_address: SocketAddr,
    pub(crate) worker_threads: usize,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    pub(crate) drain_deadline: Span,
    pub(crate) connect_deadline: Span,
    pub(crate) handshake_deadline: Span,
    pub(crate) inspection_interval: Span,
    pub(crate) cni: Cni,
    pub(crate) pod_source: Option<PodSourceKind>,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) dns: Dns,
    pub(crate) certificates: CertificatesSection,
    pub(crate) control_plane: Option<ControlPlaneSection>,
    pub(crate) limits: Limits,
    pub(crate) access_log: AccessLog,
    pub(crate) same_node: SameNode,
    /// PEM or DER; changes are seen while the daemon runs.
    pub(crate) revocation_lists: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Plain,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        let everywhere = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        Self {
            node_name: String::new(),
            pod_name: String::new(),
            pod_namespace: String::new(),
            pod_ip: String::new(),
            trust_domain: TrustDomain::default(),
            cluster_id: "Kubernetes".to_owned(),
            state_file: None,
            pods_file: None,
            bpf_dir: DEFAULT_BPF_DIR.into(),
            cgroup_root: None,
            node_netns: "/proc/1/ns/net".into(),
            kubelet_cgroup: None,
            resolv_conf: "/etc/resolv.conf".into(),
            ca_key: None,
            ca_certificate: None,
            certificate_lifetime: Span::of_seconds(24 * 3600),
            admin_socket: DEFAULT_ADMIN_SOCKET.into(),
            admin_address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000),
            metrics_address: everywhere(15020),
            readiness_address: everywhere(15021),
            worker_threads: flags::processors(),
            log_level: "info".to_owned(),
            log_format: LogFormat::Plain,
            drain_deadline: Span::of_seconds(30),
            connect_deadline: Span::of_seconds(10),
            handshake_deadline: Span::of_seconds(10),
            inspection_interval: Span::of_seconds(2),
            cni: Cni::default(),
            pod_source: None,
            kubernetes: Kubernetes::default(),
            dns: Dns::default(),
            certificates: CertificatesSection::default(),
            control_plane: None,
            limits: Limits::default(),
            access_log: AccessLog::default(),
            same_node: SameNode::default(),
            revocation_lists: Vec::new(),
        }
    }
}

/// Flags and environment go before the file, the file before the defaults.
pub(crate) fn load(file: Option<&Path>, flags: &Flags) -> anyhow::Result<Config> {
    let file = file.map(layers::read_config).transpose()?.unwrap_or_else(|| json!({}));
    from_layers([flags.layer()?, file])
}

/// Whether a file would do. What may be given by flag or environment may be missing.
pub(crate) fn validate(file: &Path) -> anyhow::Result<()> {
    let file = layers::read_config(file)?;
    let is_set = |pointer| file.pointer(pointer).is_some_and(|value| !value.is_null());
    let elsewhere = || PathBuf::from("/given/elsewhere");
    let flags = Flags {
        ca_key: Some(elsewhere()),
        ca_certificate: Some(elsewhere()),
        cgroup_root: Some(elsewhere()),
        state_file: (!is_set("/controlPlane") && !is_set("/stateFile")).then(elsewhere),
        pods_file: (!is_set("/cni/zdsSocket") && !is_set("/podSource") && !is_set("/podsFile"))
            .then(elsewhere),
        node_name: (!is_set("/nodeName")).then(|| "given-elsewhere".to_owned()),
        ..Flags::default()
    };
    from_layers([flags.layer()?, file]).map(|_| ())
}

impl Config {
    /// Decides what follows from other settings, and refuses what can't be meant.
    fn settle(mut self) -> anyhow::Result<Self> {
        let behind_cni = self.cni.zds_socket.is_some();
        let named_by = [self.pods_file.is_some(), behind_cni, self.pod_source.is_some()];
        match named_by.iter().filter(|is_set| **is_set).count() {
            0 => drop(needed(self.pods_file.as_ref(), "podsFile", "--pods-file")?),
            1 => {}
            _ => bail!(
                "more than one of podsFile, cni.zdsSocket and podSource is set: either the file names the pods, or the CNI's \
                 agent, or Kubernetes"
            ),
        }
        self.cgroup_root = match (behind_cni, self.cgroup_root.take()) {
            (true, _) => None,
            (false, None) => Some(default_cgroup_root()?),
            (false, given) => given,
        };
        self.dns = self.dns.or_on_if(behind_cni);
        self.kubelet_cgroup = match (self.kubelet_cgroup.take(), &self.cgroup_root) {
            (None, Some(root)) if self.pod_source.is_some() => kubelet::find(root),
            (given, _) => given.filter(|path| !path.as_os_str().is_empty()),
        };
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> anyhow::Result<()> {
        match (&self.state_file, &self.control_plane) {
            (None, None) => bail!(
                "stateFile is not set: give it in the configuration file, or by --state-file; or name a controlPlane"
            ),
            (Some(_), Some(_)) => {
                bail!("stateFile and controlPlane: the mesh comes from one of them; give one")
            }
            (_, section) => section.iter().try_for_each(ControlPlaneSection::check)?,
        }
        self.certificates.check(self)?;
        self.certificates.files(self)?;
        self.limits.check()?;
        if self.worker_threads == 0 || self.worker_threads > 1024 {
            bail!("workerThreads: expected 1 to 1024, found {}", self.worker_threads);
        }
        if self.certificate_lifetime.0 < Duration::from_secs(60) {
            bail!("certificateLifetime: expected at least 1m, found {}", self.certificate_lifetime);
        }
        if !self.admin_address.ip().is_loopback() {
            bail!(
                "adminAddress: {} can be reached from outside of this node, and it tells much to whoever asks; give \
                 one of loopback, such as 127.0.0.1:15000",
                self.admin_address
            );
        }
        self.dns.check()?;
        self.cni.check()?;
        if self.same_node == SameNode::Direct && self.cni.zds_socket.is_some() {
            bail!(
                "sameNode: direct is not available with cni.zdsSocket: the CNI's agent names a pod and its namespace, and not its \
                 addresses, so that enrolment does not vouch for who is reached; leave it at `tunnel`"
            );
        }
        if self.pod_source.is_some() && self.node_name.is_empty() {
            bail!("nodeName is not set: podSource needs it, to watch this node's pods and no others");
        }
        if self.cni.plugin.is_some() && self.pod_source.is_none() {
            bail!("cni.plugin: it names pods as Kubernetes does; set podSource: kubernetes");
        }
        let deadlines = [
            ("connectDeadline", self.connect_deadline),
            ("handshakeDeadline", self.handshake_deadline),
            ("inspectionInterval", self.inspection_interval),
        ];
        match deadlines.into_iter().find(|(_, span)| span.0.is_zero()) {
            Some((name, _)) => bail!("{name}: expected more than 0s"),
            None => Ok(()),
        }
    }
}

fn needed<'a>(value: Option<&'a PathBuf>, name: &str, flag: &str) -> anyhow::Result<&'a PathBuf> {
    value.with_context(|| format!("{name} is not set: give it in the configuration file, or by {flag}"))
}

fn default_cgroup_root() -> anyhow::Result<PathBuf> {
    redirect::check::cgroup2_mount()
        .context("cgroup v2 is not mounted; set cgroupRoot if it is mounted out of sight")
}
