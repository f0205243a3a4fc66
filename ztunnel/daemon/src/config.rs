//! The daemon's configuration: flags, environment and file become one valid [`Config`], once.

mod access_log;
mod certificates;
mod cni;
mod control_plane;
mod dns;
mod limits;
mod same_node;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use model::TrustDomain;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::limits::Limits;
pub(crate) use self::{
    access_log::AccessLog, certificates::CertificatesSection, cni::Cni, control_plane::ControlPlaneSection,
    dns::Dns, same_node::SameNode,
};

pub(crate) const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/ztunnel";
pub(crate) const DEFAULT_ADMIN_SOCKET: &str = "/run/ztunnel/admin.sock";

/// What may be set, wherever it is set. The documentation of each field is its `--help`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// This node's name, as workloads name it.
    #[arg(long, env = "ZTUNNEL_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// The trust domain of this mesh's identities [default: cluster.local].
    #[arg(long, env = "ZTUNNEL_TRUST_DOMAIN", value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// This cluster's name [default: Kubernetes].
    #[arg(long, env = "ZTUNNEL_CLUSTER_ID", value_name = "NAME")]
    cluster_id: Option<String>,
    /// The mesh: workloads, services and policies, in the form of Istio's local configuration. Watched for changes.
    /// Instead of it, the configuration file may name a `controlPlane`.
    #[arg(long, env = "ZTUNNEL_STATE_FILE", value_name = "FILE")]
    state_file: Option<PathBuf>,
    /// This node's pods that are to be enrolled. Watched for changes.
    #[arg(long, env = "ZTUNNEL_PODS_FILE", value_name = "FILE")]
    pods_file: Option<PathBuf>,
    /// Where programs and maps are pinned; on a BPF file system [default: /sys/fs/bpf/ztunnel].
    #[arg(long, env = "ZTUNNEL_BPF_DIR", value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    /// A cgroup v2 directory that holds all pods of this node [default: where cgroup v2 is mounted].
    #[arg(long, env = "ZTUNNEL_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// The node's own network namespace, in which the kubelet runs [default: /proc/1/ns/net].
    #[arg(long, env = "ZTUNNEL_NODE_NETNS", value_name = "FILE")]
    node_netns: Option<PathBuf>,
    /// The kubelet's cgroup: its connections are probes and reach the pods untouched [default: none].
    #[arg(long, env = "ZTUNNEL_KUBELET_CGROUP", value_name = "DIR")]
    kubelet_cgroup: Option<PathBuf>,
    /// Whom to ask for the addresses of workloads that have only a host name, as resolv.conf(5) has it
    /// [default: /etc/resolv.conf].
    #[arg(long, env = "ZTUNNEL_RESOLV_CONF", value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
    /// The embedded CA's key, PKCS#8 PEM; made with mode 0600 if it is not there.
    #[arg(long, env = "ZTUNNEL_CA_KEY", value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// The embedded CA's root certificate, PEM; made together with the key.
    #[arg(long, env = "ZTUNNEL_CA_CERTIFICATE", value_name = "FILE")]
    ca_certificate: Option<PathBuf>,
    /// How long a workload's certificate is valid [default: 24h].
    #[arg(long, env = "ZTUNNEL_CERTIFICATE_LIFETIME", value_name = "DURATION")]
    certificate_lifetime: Option<Span>,
    /// The Unix socket by which the node's root asks, and changes what is logged, or ends the daemon
    /// [default: /run/ztunnel/admin.sock].
    #[arg(long, env = "ZTUNNEL_ADMIN_SOCKET", value_name = "FILE")]
    admin_socket: Option<PathBuf>,
    /// Where the admin endpoint listens, on loopback; it only reads, but tells much [default: 127.0.0.1:15000].
    #[arg(long, env = "ZTUNNEL_ADMIN_ADDRESS", value_name = "IP:PORT")]
    admin_address: Option<SocketAddr>,
    /// Where Prometheus finds the metrics [default: [::]:15020].
    #[arg(long, env = "ZTUNNEL_METRICS_ADDRESS", value_name = "IP:PORT")]
    metrics_address: Option<SocketAddr>,
    /// Where /healthz/ready is asked [default: [::]:15021].
    #[arg(long, env = "ZTUNNEL_READINESS_ADDRESS", value_name = "IP:PORT")]
    readiness_address: Option<SocketAddr>,
    /// Threads that carry connections, or a share of the processors, such as 50% [default: one for each processor].
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS", value_name = "COUNT", value_parser = threads)]
    worker_threads: Option<usize>,
    /// What to log: error, warn, info, debug, trace, or filters such as `info,tunnel=debug` [default: info].
    #[arg(long, env = "ZTUNNEL_LOG_LEVEL", value_name = "FILTER")]
    log_level: Option<String>,
    /// How to log: plain or json [default: plain].
    #[arg(long, env = "ZTUNNEL_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// After SIGTERM, how long open connections may take to end by themselves [default: 30s].
    #[arg(long, env = "ZTUNNEL_DRAIN_DEADLINE", value_name = "DURATION")]
    drain_deadline: Option<Span>,
    /// How long an application waits for its connection to stand, all steps together [default: 10s].
    #[arg(long, env = "ZTUNNEL_CONNECT_DEADLINE", value_name = "DURATION")]
    connect_deadline: Option<Span>,
    /// How long a TLS handshake may take [default: 10s].
    #[arg(long, env = "ZTUNNEL_HANDSHAKE_DEADLINE", value_name = "DURATION")]
    handshake_deadline: Option<Span>,
    /// How often each pod's namespace is looked over for tampering [default: 2s].
    #[arg(long, env = "ZTUNNEL_INSPECTION_INTERVAL", value_name = "DURATION")]
    inspection_interval: Option<Span>,
    #[arg(skip)]
    cni: Cni,
    #[arg(skip)]
    dns: Dns,
    #[arg(skip)]
    certificates: CertificatesSection,
    #[arg(skip)]
    control_plane: Option<ControlPlaneSection>,
    #[arg(skip)]
    limits: Limits,
    #[arg(skip)]
    access_log: AccessLog,
    #[arg(skip)]
    same_node: SameNode,
    /// Certificate revocation lists, in the file only.
    #[arg(skip)]
    revocation_lists: Vec<PathBuf>,
}

/// What is in force. Serializes into the admin endpoint's `/config_dump`: no secrets here, only their paths.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) node_name: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) cluster_id: String,
    pub(crate) state_file: Option<PathBuf>,
    /// `None` where a CNI's agent names the pods.
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
    pub(crate) dns: Dns,
    pub(crate) certificates: CertificatesSection,
    pub(crate) control_plane: Option<ControlPlaneSection>,
    pub(crate) limits: Limits,
    pub(crate) access_log: AccessLog,
    pub(crate) same_node: SameNode,
    pub(crate) revocation_lists: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Plain,
    Json,
}

/// A duration as people write it: `24h`, `1m 30s`, `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// Flags and environment go before the file, the file before the defaults.
pub(crate) fn load(file: Option<&Path>, given: Settings) -> anyhow::Result<Config> {
    let from_file = file.map(read).transpose()?.unwrap_or_default();
    Config::new(given.or(from_file))
}

/// A file as it is, for somebody who knows more that belongs into it.
pub(crate) fn read_tree(path: &Path) -> anyhow::Result<Value> {
    let tree: Value = parse(path)?;
    anyhow::ensure!(tree.is_object(), "{}: expected settings by name", path.display());
    Ok(tree)
}

/// As [`load`], from what a file would hold.
pub(crate) fn from_tree(tree: Value, given: Settings) -> anyhow::Result<Config> {
    let settings = serde_json::from_value(tree).context("as a configuration file")?;
    Config::new(given.or(settings))
}

/// Whether a file would do. Paths may be given by flag or environment.
pub(crate) fn validate(file: &Path) -> anyhow::Result<()> {
    let elsewhere = || Some(PathBuf::from("/given/elsewhere"));
    let file = read(file)?;
    let given = Settings {
        state_file: elsewhere().filter(|_| file.control_plane.is_none()),
        pods_file: elsewhere().filter(|_| file.cni.zds_socket.is_none()),
        ca_key: elsewhere(),
        ca_certificate: elsewhere(),
        cgroup_root: elsewhere(),
        ..Settings::default()
    };
    Config::new(given.or(file)).map(|_| ())
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    parse(path)
}

fn parse<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

impl Settings {
    fn or(self, other: Self) -> Self {
        Self {
            node_name: self.node_name.or(other.node_name),
            trust_domain: self.trust_domain.or(other.trust_domain),
            cluster_id: self.cluster_id.or(other.cluster_id),
            state_file: self.state_file.or(other.state_file),
            pods_file: self.pods_file.or(other.pods_file),
            bpf_dir: self.bpf_dir.or(other.bpf_dir),
            cgroup_root: self.cgroup_root.or(other.cgroup_root),
            node_netns: self.node_netns.or(other.node_netns),
            kubelet_cgroup: self.kubelet_cgroup.or(other.kubelet_cgroup),
            resolv_conf: self.resolv_conf.or(other.resolv_conf),
            ca_key: self.ca_key.or(other.ca_key),
            ca_certificate: self.ca_certificate.or(other.ca_certificate),
            certificate_lifetime: self.certificate_lifetime.or(other.certificate_lifetime),
            admin_socket: self.admin_socket.or(other.admin_socket),
            admin_address: self.admin_address.or(other.admin_address),
            metrics_address: self.metrics_address.or(other.metrics_address),
            readiness_address: self.readiness_address.or(other.readiness_address),
            worker_threads: self.worker_threads.or(other.worker_threads),
            log_level: self.log_level.or(other.log_level),
            log_format: self.log_format.or(other.log_format),
            drain_deadline: self.drain_deadline.or(other.drain_deadline),
            connect_deadline: self.connect_deadline.or(other.connect_deadline),
            handshake_deadline: self.handshake_deadline.or(other.handshake_deadline),
            inspection_interval: self.inspection_interval.or(other.inspection_interval),
            // Sections are in the file only.
            cni: other.cni,
            dns: other.dns,
            certificates: other.certificates,
            control_plane: other.control_plane,
            limits: other.limits,
            access_log: other.access_log,
            same_node: other.same_node,
            revocation_lists: [self.revocation_lists, other.revocation_lists].concat(),
        }
    }
}

impl Config {
    fn new(settings: Settings) -> anyhow::Result<Self> {
        let everywhere = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let (pods_file, cgroup_root) = match &settings.cni.zds_socket {
            Some(_) if settings.pods_file.is_some() => {
                bail!(
                    "podsFile and cni.zdsSocket are both set: either the file names the pods, or the CNI's agent"
                )
            }
            Some(_) => (None, None),
            None => {
                let cgroup_root = settings.cgroup_root.map_or_else(default_cgroup_root, Ok)?;
                (Some(needed(settings.pods_file, "podsFile", "--pods-file")?), Some(cgroup_root))
            }
        };
        let config = Self {
            node_name: settings.node_name.unwrap_or_default(),
            trust_domain: settings.trust_domain.map_or_else(|| "cluster.local".parse(), Ok)?,
            cluster_id: settings.cluster_id.unwrap_or_else(|| "Kubernetes".to_owned()),
            state_file: settings.state_file,
            pods_file,
            bpf_dir: settings.bpf_dir.unwrap_or_else(|| DEFAULT_BPF_DIR.into()),
            cgroup_root,
            node_netns: settings.node_netns.unwrap_or_else(|| "/proc/1/ns/net".into()),
            kubelet_cgroup: settings.kubelet_cgroup,
            resolv_conf: settings.resolv_conf.unwrap_or_else(|| "/etc/resolv.conf".into()),
            ca_key: settings.ca_key,
            ca_certificate: settings.ca_certificate,
            certificate_lifetime: settings
                .certificate_lifetime
                .unwrap_or(Span(Duration::from_secs(24 * 3600))),
            admin_socket: settings.admin_socket.unwrap_or_else(|| DEFAULT_ADMIN_SOCKET.into()),
            admin_address: settings
                .admin_address
                .unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000)),
            metrics_address: settings.metrics_address.unwrap_or(everywhere(15020)),
            readiness_address: settings.readiness_address.unwrap_or(everywhere(15021)),
            worker_threads: settings.worker_threads.unwrap_or_else(processors),
            log_level: settings.log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: settings.log_format.unwrap_or(LogFormat::Plain),
            drain_deadline: settings.drain_deadline.unwrap_or(Span(Duration::from_secs(30))),
            connect_deadline: settings.connect_deadline.unwrap_or(Span(Duration::from_secs(10))),
            handshake_deadline: settings.handshake_deadline.unwrap_or(Span(Duration::from_secs(10))),
            inspection_interval: settings.inspection_interval.unwrap_or(Span(Duration::from_secs(2))),
            dns: settings.dns.or_on_if(settings.cni.zds_socket.is_some()),
            cni: settings.cni,
            certificates: settings.certificates,
            control_plane: settings.control_plane,
            limits: settings.limits,
            access_log: settings.access_log,
            same_node: settings.same_node,
            revocation_lists: settings.revocation_lists,
        };
        config.check()?;
        Ok(config)
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

fn needed(value: Option<PathBuf>, name: &str, flag: &str) -> anyhow::Result<PathBuf> {
    value.with_context(|| format!("{name} is not set: give it in the configuration file, or by {flag}"))
}

fn default_cgroup_root() -> anyhow::Result<PathBuf> {
    redirect::check::cgroup2_mount()
        .context("cgroup v2 is not mounted; set cgroupRoot if it is mounted out of sight")
}

/// A number, or a share of the processors, rounded up.
fn threads(text: &str) -> Result<usize, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return text.parse().map_err(|_| "expected a number, or a share such as 50%".to_owned());
    };
    match percent.parse() {
        Ok(percent @ 1..=100) => Ok((processors() * percent).div_ceil(100)),
        _ => Err("expected 1% to 100%".to_owned()),
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

impl FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = "stateFile: /s\npodsFile: /p\ncaKey: /k\ncaCertificate: /c\ncgroupRoot: /g\n";

    fn load_text(text: &str, given: Settings) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        load(Some(file.path()), given)
    }

    #[test]
    fn what_is_given_goes_before_the_file_and_the_file_before_the_defaults() {
        let text = format!("{COMPLETE}drainDeadline: 5s\nnodeName: from-file\n");
        let given = Settings { node_name: Some("given".to_owned()), ..Settings::default() };
        let config = load_text(&text, given).unwrap();
        assert_eq!(config.node_name, "given");
        assert_eq!(config.drain_deadline, Span(Duration::from_secs(5)));
        assert_eq!(config.certificate_lifetime, Span(Duration::from_secs(86400)));
    }

    /// If not, pods whose port 53 a CNI redirects would resolve nothing.
    #[test]
    fn dns_is_on_behind_a_cni_unless_it_is_turned_off() {
        let enabled = |text: &str| load_text(text, Settings::default()).unwrap().dns.enabled();
        assert!(!enabled(COMPLETE));
        let cni = COMPLETE.replace("podsFile: /p\n", "cni: {zdsSocket: /z}\n");
        assert!(enabled(&cni));
        assert!(!enabled(&format!("{cni}dns: {{enabled: false}}\n")));
    }

    #[test]
    fn threads_are_a_number_or_a_share_of_the_processors() {
        assert_eq!(threads("7"), Ok(7));
        assert_eq!(threads("100%"), Ok(processors()));
        assert!((1..=processors()).contains(&threads("1%").unwrap()), "rounded up");
        for wrong in ["0%", "101%", "half", "%", "-1"] {
            threads(wrong).unwrap_err();
        }
    }

    #[test]
    fn errors_name_the_place_and_the_cure() {
        let error = |text: &str| format!("{:#}", load_text(text, Settings::default()).unwrap_err());
        assert!(error("stateFile: /s\n").contains("podsFile is not set"), "missing");
        let section = "controlPlane: {address: 'istiod:15012', rootCertificates: system";
        let both = error(&format!("{COMPLETE}{section}}}\n"));
        assert!(both.contains("give one"), "{both}");
        let neither = error(&COMPLETE.replace("stateFile: /s\n", ""));
        assert!(neither.contains("stateFile is not set") && neither.contains("controlPlane"), "{neither}");
        let plain = error(&format!("{COMPLETE}{}}}\n", section.replace("'istiod", "'http://istiod")));
        assert!(plain.contains("TLS"), "{plain}");
        let zero = error(&COMPLETE.replace("stateFile: /s", &format!("{section}, patience: 0s}}")));
        assert!(zero.contains("controlPlane.patience"), "{zero}");
        let ca = COMPLETE.replace("caKey: /k\n", "");
        assert!(error(&ca).contains("caKey is not set"), "{}", error(&ca));
        let nobody = error(&format!("{ca}certificates: {{source: istio}}\n"));
        assert!(nobody.contains("certificates.authority"), "{nobody}");
        let both =
            error(&format!("{COMPLETE}certificates: {{trustDomainAliases: [a], bundles: {{a: /a}}}}\n"));
        assert!(both.contains("alias"), "{both}");
        let authority = "authority: {address: 'ca:15012', rootCertificates: system}";
        load_text(&format!("{ca}certificates: {{source: istio, {authority}}}\n"), Settings::default())
            .unwrap();
        let unknown = error(&format!("{COMPLETE}drainDeadlin: 5s\n"));
        assert!(unknown.contains("drainDeadlin") && unknown.contains('6'), "{unknown}");
        assert!(error(&format!("{COMPLETE}drainDeadline: soon\n")).contains("drainDeadline"));
        assert!(error(&format!("{COMPLETE}workerThreads: 0\n")).contains("1 to 1024"));
        for open in ["0.0.0.0:15000", "[::]:15000", "10.0.0.1:15000"] {
            let open = error(&format!("{COMPLETE}adminAddress: '{open}'\n"));
            assert!(open.contains("adminAddress") && open.contains("127.0.0.1:15000"), "{open}");
        }
        assert!(error(&format!("{COMPLETE}trustDomain: Not Valid\n")).contains("trust domain"));
        let sample = error(&format!("{COMPLETE}accessLog: {{sample: 1.5}}\n"));
        assert!(sample.contains("expected a fraction from 0 to 1, found 1.5"), "{sample}");
    }
}
