//! Open connections as the admin endpoint shows them.

use std::{net::SocketAddr, sync::Arc};

use model::{ClientAddr, OriginalDst, Role, SpiffeId, Workload, WorkloadUid};
use serde::Serialize;

use crate::{LiveAudit, Path, Proof, TraceId, account::Account};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveConnection {
    pub id: u64,
    pub role: Role,
    /// The pod of this node that it belongs to.
    pub local: WorkloadUid,
    pub client: ClientAddr,
    /// What the client asked for.
    pub original_destination: OriginalDst,
    /// Both ends have proven who they are, by mutual TLS.
    pub mutual_tls: bool,
    /// `unresolved`, `hbone`, `direct`, `passthrough` or `plaintext`.
    pub path: &'static str,
    /// Where the mutual TLS tunnel leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<SocketAddr>,
    /// The application's address, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<SocketAddr>,
    pub source: LiveParty,
    pub destination: LiveParty,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The policy that allowed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What would become of it if all that is only audited were in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<LiveAudit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    /// Bytes may flow; false while it is still being made.
    pub established: bool,
    pub bytes_to_destination: u64,
    pub bytes_to_source: u64,
    pub age_milliseconds: u64,
}

/// Who stands at one end, as far as it is known.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LiveParty {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadUid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// Proven by mutual TLS or, where the path is `direct`, known from enrolment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
}

impl LiveConnection {
    pub(crate) fn of(account: &Account) -> Self {
        let facts = account.facts.lock().clone();
        let (gateway, target) = match facts.path {
            Path::Unresolved => (None, None),
            Path::Tunnel { gateway, target } => (Some(gateway), Some(target)),
            Path::Direct { target } | Path::Passthrough { target } => (None, Some(target)),
            Path::Plaintext => (None, Some(account.destination.0)),
        };
        let (source_identity, destination_identity) = facts.identities.clone().unzip();
        let (by, audit) =
            account.judged.lock().clone().map_or((None, None), |judged| (judged.by, judged.audit));
        Self {
            id: account.id,
            role: account.role,
            local: account.local.clone(),
            client: account.client,
            original_destination: account.destination,
            mutual_tls: facts.identities.is_some() && facts.proof == Proof::MutualTls,
            path: facts.path.as_str(),
            gateway,
            target,
            source: LiveParty::of(facts.source.as_ref(), source_identity),
            destination: LiveParty::of(facts.destination.as_ref(), destination_identity),
            service: facts.service.map(|service| service.key().to_string()),
            policy: by.map(|policy| policy.to_string()),
            audit: audit.as_ref().map(LiveAudit::of),
            trace_id: account.trace.get().copied(),
            established: account.series.get().is_some(),
            bytes_to_destination: account.counters.to_destination(),
            bytes_to_source: account.counters.to_source(),
            age_milliseconds: u64::try_from(account.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl LiveParty {
    pub(crate) fn of(workload: Option<&Arc<Workload>>, identity: Option<SpiffeId>) -> Self {
        Self {
            workload: workload.map(|workload| workload.uid.clone()),
            namespace: workload.map(|workload| workload.namespace.clone()),
            name: workload.map(|workload| workload.name.clone()),
            node: workload.map(|workload| workload.node.clone()),
            identity,
        }
    }
}

/// A connection that was open when it was asked for. Small, so that a list of many costs little until each is read.
#[derive(Clone, Debug)]
pub struct LiveHandle(Arc<Account>);

impl LiveHandle {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Self(account)
    }

    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The pod of this node that it belongs to.
    pub fn local(&self) -> &WorkloadUid {
        &self.0.local
    }

    /// Both directions together.
    pub fn bytes(&self) -> u64 {
        self.0.counters.to_destination().saturating_add(self.0.counters.to_source())
    }

    pub fn read(&self) -> LiveConnection {
        LiveConnection::of(&self.0)
    }
}
