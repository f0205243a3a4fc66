//! How much pods and peers may take. Each limit has a name, which its metric, its log line and a refusal's reason share.

use std::time::Duration;

pub(crate) const HANDSHAKES: &str = "handshakes";
pub(crate) const SOCKETS: &str = "sockets";
pub(crate) const PENDING: &str = "pending_per_pod";
pub(crate) const PENDING_PER_SOURCE: &str = "pending_per_source";
pub(crate) const ACCEPTS: &str = "accepts_per_second";
pub(crate) const OUTBOUND_CONNECTIONS: &str = "outbound_connections_per_pod";
pub(crate) const INBOUND_CONNECTIONS: &str = "inbound_connections_per_source";
pub(crate) const INBOUND_TUNNELS: &str = "inbound_tunnels_per_source";

#[cfg(test)]
pub(crate) const ALL: &[&str] = &[
    HANDSHAKES,
    SOCKETS,
    PENDING,
    PENDING_PER_SOURCE,
    ACCEPTS,
    OUTBOUND_CONNECTIONS,
    INBOUND_CONNECTIONS,
    INBOUND_TUNNELS,
];

#[derive(Clone, Debug)]
pub struct ProxyLimits {
    /// Inbound handshakes under way, per pod and in the whole daemon. More cut the oldest of whoever has the most.
    pub handshakes_per_pod: usize,
    pub handshakes: usize,
    /// Sockets that connections may hold, in the whole daemon,
    pub sockets: usize,
    /// and how many in a hundred of them those of one pod may.
    pub pod_sockets_percent: usize,
    /// Outbound connections of a pod, and inbound ones without a tunnel, that are being made; more wait in the kernel.
    pub pending_per_pod: usize,
    /// How many in a hundred of the latter one source address may have; more of it are reset. Who knows that all clients
    /// come from one address, such as behind SNAT, gives it all: what is too much waits then.
    pub pending_per_source_percent: usize,
    /// Connections that one listener of a pod accepts in a second; more wait in the kernel.
    pub accepts_per_second: u32,
    /// How many more it accepts at once after a pause.
    pub accept_burst: u32,
    /// Outbound connections of a pod. More are reset.
    pub outbound_connections_per_pod: usize,
    /// Inbound connections to a pod from one proven identity or, without a tunnel, from one address. More are refused.
    pub inbound_connections_per_source: usize,
    /// Inbound tunnels to a pod from one identity at one address. More are closed.
    pub inbound_tunnels_per_source: usize,
    /// Lines of log per reason and interval, of what strangers can cause.
    pub log_lines: u64,
    pub log_interval: Duration,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            handshakes_per_pod: 256,
            handshakes: 2048,
            sockets: 16_384,
            pod_sockets_percent: 75,
            pending_per_pod: 1024,
            pending_per_source_percent: 50,
            accepts_per_second: 5000,
            accept_burst: 5000,
            outbound_connections_per_pod: 16_384,
            inbound_connections_per_source: 8192,
            inbound_tunnels_per_source: 128,
            log_lines: 10,
            log_interval: Duration::from_secs(10),
        }
    }
}
