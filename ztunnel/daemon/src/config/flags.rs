//! What may be said on the command line or in the environment: one layer of the configuration.

use std::{net::SocketAddr, path::PathBuf, thread};

use clap::Args;
use model::TrustDomain;
use serde::Serialize;
use serde_json::Value;

use super::{LogFormat, Span};

/// What is left out here stands in the file, or has a default: see [`Config`]. The documentation of each field is its `--help`.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flags {
    /// This node's name, as workloads name it.
    #[arg(long, env = "ZTUNNEL_NODE_NAME", value_name = "NAME")]
    pub(super) node_name: Option<String>,
    /// The name of the daemon's own pod, of which it tells the control plane; with its namespace and address.
    #[arg(long, env = "ZTUNNEL_POD_NAME", value_name = "NAME")]
    pub(super) pod_name: Option<String>,
    /// The namespace of the daemon's own pod.
    #[arg(long, env = "ZTUNNEL_POD_NAMESPACE", value_name = "NAME")]
    pub(super) pod_namespace: Option<String>,
    /// The address of the daemon's own pod.
    #[arg(long, env = "ZTUNNEL_POD_IP", value_name = "IP")]
    pub(super) pod_ip: Option<String>,
    /// The trust domain of this mesh's identities [default: cluster.local].
    #[arg(long, env = "ZTUNNEL_TRUST_DOMAIN", value_name = "NAME")]
    pub(super) trust_domain: Option<TrustDomain>,
    /// This cluster's name [default: Kubernetes].
    #[arg(long, env = "ZTUNNEL_CLUSTER_ID", value_name = "NAME")]
    pub(super) cluster_id: Option<String>,
    /// The mesh: workloads, services and policies, in the form of Istio's local configuration. Watched for changes.
    /// Instead of it, the configuration file may name a `controlPlane`.
    #[arg(long, env = "ZTUNNEL_STATE_FILE", value_name = "FILE")]
    pub(super) state_file: Option<PathBuf>,
    /// This node's pods that are to be enrolled. Watched for changes.
    #[arg(long, env = "ZTUNNEL_PODS_FILE", value_name = "FILE")]
    pub(super) pods_file: Option<PathBuf>,
    /// Where programs and maps are pinned; on a BPF file system [default: /sys/fs/bpf/ztunnel].
    #[arg(long, env = "ZTUNNEL_BPF_DIR", value_name = "DIR")]
    pub(super) bpf_dir: Option<PathBuf>,
    /// A cgroup v2 directory that holds all pods of this node [default: where cgroup v2 is mounted].
    #[arg(long, env = "ZTUNNEL_CGROUP_ROOT", value_name = "DIR")]
    pub(super) cgroup_root: Option<PathBuf>,
    /// The node's own network namespace, in which the kubelet runs [default: /proc/1/ns/net].
    #[arg(long, env = "ZTUNNEL_NODE_NETNS", value_name = "FILE")]
    pub(super) node_netns: Option<PathBuf>,
    /// The kubelet's cgroup: its connections are probes and reach the pods untouched. Empty: none [default: none, and with
    /// `podSource: kubernetes` where it usually is, such as system.slice/kubelet.service below the cgroup root].
    #[arg(long, env = "ZTUNNEL_KUBELET_CGROUP", value_name = "DIR")]
    pub(super) kubelet_cgroup: Option<PathBuf>,
    /// Whom to ask for the addresses of workloads that have only a host name, as resolv.conf(5) has it
    /// [default: /etc/resolv.conf].
    #[arg(long, env = "ZTUNNEL_RESOLV_CONF", value_name = "FILE")]
    pub(super) resolv_conf: Option<PathBuf>,
    /// The embedded CA's key, PKCS#8 PEM; made with mode 0600 if it is not there.
    #[arg(long, env = "ZTUNNEL_CA_KEY", value_name = "FILE")]
    pub(super) ca_key: Option<PathBuf>,
    /// The embedded CA's root certificate, PEM; made together with the key.
    #[arg(long, env = "ZTUNNEL_CA_CERTIFICATE", value_name = "FILE")]
    pub(super) ca_certificate: Option<PathBuf>,
    /// How long a workload's certificate is valid [default: 24h].
    #[arg(long, env = "ZTUNNEL_CERTIFICATE_LIFETIME", value_name = "DURATION")]
    pub(super) certificate_lifetime: Option<Span>,
    /// The Unix socket by which the node's root asks, and changes what is logged, or ends the daemon
    /// [default: /run/ztunnel/admin.sock].
    #[arg(long, env = "ZTUNNEL_ADMIN_SOCKET", value_name = "FILE")]
    pub(super) admin_socket: Option<PathBuf>,
    /// Where the admin endpoint listens, on loopback; it only reads, but tells much [default: 127.0.0.1:15000].
    #[arg(long, env = "ZTUNNEL_ADMIN_ADDRESS", value_name = "IP:PORT")]
    pub(super) admin_address: Option<SocketAddr>,
    /// Where Prometheus finds the metrics [default: [::]:15020].
    #[arg(long, env = "ZTUNNEL_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub(super) metrics_address: Option<SocketAddr>,
    /// Where /healthz/ready is asked [default: [::]:15021].
    #[arg(long, env = "ZTUNNEL_READINESS_ADDRESS", value_name = "IP:PORT")]
    pub(super) readiness_address: Option<SocketAddr>,
    /// Threads that carry connections, or a share of the processors, such as 50% [default: one for each processor].
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS", value_name = "COUNT", value_parser = threads)]
    pub(super) worker_threads: Option<usize>,
    /// What to log: error, warn, info, debug, trace, or filters such as `info,tunnel=debug` [default: info].
    #[arg(long, env = "ZTUNNEL_LOG_LEVEL", value_name = "FILTER")]
    pub(super) log_level: Option<String>,
    /// How to log: plain or json [default: plain].
    #[arg(long, env = "ZTUNNEL_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// After SIGTERM, how long open connections may take to end by themselves [default: 30s].
    #[arg(long, env = "ZTUNNEL_DRAIN_DEADLINE", value_name = "DURATION")]
    pub(super) drain_deadline: Option<Span>,
    /// How long an application waits for its connection to stand, all steps together [default: 10s].
    #[arg(long, env = "ZTUNNEL_CONNECT_DEADLINE", value_name = "DURATION")]
    pub(super) connect_deadline: Option<Span>,
    /// How long a TLS handshake may take [default: 10s].
    #[arg(long, env = "ZTUNNEL_HANDSHAKE_DEADLINE", value_name = "DURATION")]
    pub(super) handshake_deadline: Option<Span>,
    /// How often each pod's namespace is looked over for tampering [default: 2s].
    #[arg(long, env = "ZTUNNEL_INSPECTION_INTERVAL", value_name = "DURATION")]
    pub(super) inspection_interval: Option<Span>,
}

impl Flags {
    /// What is given, under the names that the file has for it.
    pub(crate) fn layer(&self) -> serde_json::Result<Value> {
        let mut layer = serde_json::to_value(self)?;
        if let Some(settings) = layer.as_object_mut() {
            settings.retain(|_, value| !value.is_null());
        }
        Ok(layer)
    }
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

pub(super) fn processors() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_a_number_or_a_share_of_the_processors() {
        assert_eq!(threads("7"), Ok(7));
        assert_eq!(threads("100%"), Ok(processors()));
        assert!((1..=processors()).contains(&threads("1%").unwrap()), "rounded up");
        for wrong in ["0%", "101%", "half", "%", "-1"] {
            threads(wrong).unwrap_err();
        }
    }
}
