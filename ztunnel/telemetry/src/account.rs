//! What is known of one connection. The ledger writes it, the live list and the flush of byte counts read it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use metrics::Histogram;
use model::{ClientAddr, OriginalDst, Role, SpiffeId, Workload, WorkloadUid, service::Service};
use parking_lot::Mutex;

use crate::{TraceId, judgement::Judged, series::Series};

/// What the wire carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// Not decided yet, or never.
    #[default]
    Unresolved,
    /// HBONE: `gateway` is where TLS is spoken, `target` the application's address.
    Tunnel { gateway: SocketAddr, target: SocketAddr },
    /// From one pod to another of this node, past the network: no TLS, and nothing on an interface of either.
    Direct { target: SocketAddr },
    /// Outbound as the application sent it.
    Passthrough { target: SocketAddr },
    /// Inbound as the client sent it.
    Plaintext,
}

impl Path {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Tunnel { .. } => "hbone",
            Self::Direct { .. } => "direct",
            Self::Passthrough { .. } => "passthrough",
            Self::Plaintext => "plaintext",
        }
    }
}

/// How it is known who the two ends are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Each has proven it to the other.
    #[default]
    MutualTls,
    /// This daemon serves both: it knows whose sockets it holds. Nothing is encrypted.
    Enrolment,
}

impl Proof {
    /// Istio's word for what protects the bytes on their way.
    pub(crate) fn security_policy(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Enrolment => "none",
        }
    }
}

/// Payload bytes of one connection, by direction.
#[derive(Debug, Default)]
pub struct ByteCounters {
    to_destination: Direction,
    to_source: Direction,
    /// Since when the source waits for an answer, and where it is told how long.
    waiting: Option<(Instant, Histogram)>,
}

#[derive(Debug, Default)]
struct Direction {
    total: AtomicU64,
    /// What the metrics have been told.
    reported: AtomicU64,
}

impl ByteCounters {
    pub(crate) fn new(opened: Instant, first_byte: Histogram) -> Self {
        Self { waiting: Some((opened, first_byte)), ..Self::default() }
    }

    pub fn add_to_destination(&self, bytes: u64) {
        self.to_destination.total.fetch_add(bytes, Relaxed);
    }

    pub fn add_to_source(&self, bytes: u64) {
        if self.to_source.total.fetch_add(bytes, Relaxed) == 0
            && bytes > 0
            && let Some((opened, first_byte)) = &self.waiting
        {
            first_byte.record(opened.elapsed());
        }
    }

    pub fn to_destination(&self) -> u64 {
        self.to_destination.total.load(Relaxed)
    }

    pub fn to_source(&self) -> u64 {
        self.to_source.total.load(Relaxed)
    }
}

impl Direction {
    /// Each byte is handed out once, whoever asks, however many ask at once.
    fn take_unreported(&self) -> u64 {
        let now = self.total.load(Relaxed);
        now.saturating_sub(self.reported.fetch_max(now, Relaxed))
    }
}

/// Grows while the connection is being understood; fixed once it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) path: Path,
    pub(crate) source: Option<Arc<Workload>>,
    pub(crate) destination: Option<Arc<Workload>>,
    pub(crate) service: Option<Arc<Service>>,
    /// Source, destination; known by `proof`.
    pub(crate) identities: Option<(SpiffeId, SpiffeId)>,
    pub(crate) proof: Proof,
}

/// Who is at the source, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Workload(WorkloadUid),
    Identity(SpiffeId),
    Address(IpAddr),
}

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) id: u64,
    pub(crate) role: Role,
    pub(crate) local: WorkloadUid,
    pub(crate) client: ClientAddr,
    pub(crate) destination: OriginalDst,
    pub(crate) opened: Instant,
    pub(crate) trace: OnceLock<TraceId>,
    pub(crate) counters: Arc<ByteCounters>,
    pub(crate) facts: Mutex<Facts>,
    pub(crate) judged: Mutex<Option<Judged>>,
    /// Where it is counted; known from the moment it counts as opened.
    pub(crate) series: OnceLock<Arc<Series>>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(uid) => uid.fmt(f),
            Self::Identity(identity) => identity.fmt(f),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

impl Account {
    /// Istio's word for whose view this is.
    pub(crate) fn reporter(&self) -> &'static str {
        reporter(self.role)
    }

    /// Of what is known of this connection.
    pub(crate) fn source(&self, facts: &Facts) -> Source {
        match (&facts.source, &facts.identities) {
            (Some(workload), _) => Source::Workload(workload.uid.clone()),
            (None, Some((identity, _))) => Source::Identity(identity.clone()),
            (None, None) => Source::Address(self.client.0.ip()),
        }
    }

    /// Tells the metrics the bytes they have not heard of.
    pub(crate) fn flush(&self) {
        let Some(series) = self.series.get() else { return };
        add(&series.received, self.counters.to_destination.take_unreported());
        add(&series.sent, self.counters.to_source.take_unreported());
    }
}

pub(crate) fn reporter(role: Role) -> &'static str {
    match role {
        Role::Outbound => "source",
        Role::InboundPlaintext | Role::InboundHbone => "destination",
    }
}

fn add(counter: &OnceLock<metrics::Counter>, bytes: u64) {
    if let (Some(counter), 1..) = (counter.get(), bytes) {
        counter.increment(bytes);
    }
}
