//! What the server may hold, and for how long.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use model::demand::Demand;

/// UDP and TCP, IPv4 and IPv6, and conntrack.
const PER_POD: usize = 5;

#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain of the cluster's services.
    pub cluster_domain: String,
    /// Requests of a pod that are looked at in a second. More over UDP are dropped, and over TCP wait.
    pub queries_per_second: NonZeroU32,
    /// Requests that wait for other servers' answers at once; more are answered with SERVFAIL.
    pub forwards_per_pod: usize,
    pub forwards: usize,
    /// Connections at once; more wait to be accepted.
    pub connections_per_pod: usize,
    pub connections: usize,
    /// For another server's answer, from the request on.
    pub forward_deadline: Duration,
    /// For the next request on a connection to begin.
    pub idle_deadline: Duration,
    /// For a request to come in whole once it has begun, and for an answer to be taken.
    pub message_deadline: Duration,
    /// Whom to ask for what the state does not have; nobody, if it has everything.
    pub demand: Option<Arc<dyn Demand>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            queries_per_second: const { NonZeroU32::new(2000).unwrap() },
            forwards_per_pod: 128,
            forwards: 1024,
            connections_per_pod: 16,
            connections: 256,
            forward_deadline: Duration::from_secs(5),
            idle_deadline: Duration::from_secs(10),
            message_deadline: Duration::from_secs(5),
            demand: None,
        }
    }
}

impl Settings {
    /// The most descriptors that `pods` of a node hold: their requests, and each its listeners and its door to the
    /// kernel's records of what was redirected.
    pub fn descriptors(&self, pods: usize) -> usize {
        self.forwards + self.connections + pods * PER_POD
    }
}
