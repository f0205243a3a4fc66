//! Why a connection is refused: one machine-readable word, the same in log, metric and admin endpoint.

use std::net::SocketAddr;

use crate::{WorkloadUid, identity::TrustDomain, policy::PolicyKey, service::ServiceKey};

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the local workload {0} is not in the mesh state, so it has no identity")]
    UnknownSource(WorkloadUid),
    #[error(
        "the mesh state has workload {0} under another service account than the one the pod was enrolled with"
    )]
    WrongServiceAccount(WorkloadUid),
    #[error("{0} is not an address of the workload it was sent to")]
    WrongDestination(SocketAddr),
    #[error(
        "its `applicationTunnel` names no port, and no service has {0}: name the port on which it takes the PROXY protocol"
    )]
    NotServed(SocketAddr),
    #[error("`{0}` is not an ip:port or a known service host:port")]
    BadAuthority(String),
    #[error("{0} is unknown")]
    UnknownDestination(String),
    #[error("port {0} is reserved for the mesh itself")]
    ReservedPort(u16),
    #[error("service {service} has no port {port}")]
    NoSuchServicePort { service: ServiceKey, port: u16 },
    #[error("`{0}` has the address, and what the control plane said of it cannot be read")]
    Unreadable(String),
    #[error("service {0} has no healthy endpoint")]
    NoHealthyEndpoint(ServiceKey),
    #[error("waypoint {0} is not in the mesh state")]
    UnknownWaypoint(String),
    #[error("service {0} has healthy endpoints, but none in the scope that its routing preference demands")]
    NoEndpointInScope(ServiceKey),
    #[error("host name `{0}` has no address that may be connected to")]
    UnusableHostName(String),
    #[error("{0} is in another network, and east-west gateways are not supported yet")]
    OtherNetwork(String),
    #[error("policy {0} denies it")]
    DeniedByPolicy(PolicyKey),
    #[error("policies are in force and none allows it")]
    NotAllowed,
    #[error("nothing is allowed by default and no policy allows it")]
    DefaultDeny,
    #[error("policy {0} applies to the workload but is not in the mesh state")]
    UnknownPolicy(PolicyKey),
    #[error("the workload accepts mutual TLS only and this connection is plaintext")]
    PlaintextInStrict,
    #[error("the workload accepts plaintext only and this connection is tunnelled")]
    MtlsDisabled,
    #[error("the peer's trust domain {0} is not the workload's own")]
    OtherTrustDomain(TrustDomain),
    #[error("{0} is unknown to the mesh, and the source's namespace may connect only to what is known")]
    NotInRegistry(SocketAddr),
}

/// What kind of answer a refusal is; the tunnel turns it into an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request itself is wrong.
    Malformed,
    /// It is understood and forbidden.
    Denied,
    /// There is nothing there to reach.
    Unavailable,
}

impl Refusal {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownSource(_) => "unknown_source",
            Self::WrongServiceAccount(_) => "wrong_service_account",
            Self::WrongDestination(_) => "wrong_destination",
            Self::NotServed(_) => "not_served",
            Self::BadAuthority(_) => "bad_authority",
            Self::UnknownDestination(_) => "unknown_destination",
            Self::ReservedPort(_) => "reserved_port",
            Self::NoSuchServicePort { .. } => "no_such_service_port",
            Self::Unreadable(_) => "unreadable",
            Self::NoHealthyEndpoint(_) => "no_healthy_endpoint",
            Self::UnknownWaypoint(_) => "unknown_waypoint",
            Self::NoEndpointInScope(_) => "no_endpoint_in_scope",
            Self::UnusableHostName(_) => "unusable_host_name",
            Self::OtherNetwork(_) => "other_network_unsupported",
            Self::DeniedByPolicy(_) => "denied_by_policy",
            Self::NotAllowed => "not_allowed",
            Self::DefaultDeny => "default_deny",
            Self::UnknownPolicy(_) => "unknown_policy",
            Self::PlaintextInStrict => "plaintext_in_strict",
            Self::MtlsDisabled => "mtls_disabled",
            Self::OtherTrustDomain(_) => "other_trust_domain",
            Self::NotInRegistry(_) => "not_in_registry",
        }
    }

    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::WrongDestination(_) | Self::NotServed(_) | Self::BadAuthority(_) => RefusalKind::Malformed,
            Self::DeniedByPolicy(_)
            | Self::NotAllowed
            | Self::DefaultDeny
            | Self::UnknownPolicy(_)
            | Self::PlaintextInStrict
            | Self::MtlsDisabled
            | Self::OtherTrustDomain(_)
            | Self::NotInRegistry(_) => RefusalKind::Denied,
            Self::UnknownSource(_)
            | Self::WrongServiceAccount(_)
            | Self::UnknownDestination(_)
            | Self::ReservedPort(_)
            | Self::NoSuchServicePort { .. }
            | Self::Unreadable(_)
            | Self::NoHealthyEndpoint(_)
            | Self::UnknownWaypoint(_)
            | Self::NoEndpointInScope(_)
            | Self::UnusableHostName(_)
            | Self::OtherNetwork(_) => RefusalKind::Unavailable,
        }
    }

    /// The policy that decided, where one did.
    pub fn policy(&self) -> Option<&PolicyKey> {
        match self {
            Self::DeniedByPolicy(policy) | Self::UnknownPolicy(policy) => Some(policy),
            _ => None,
        }
    }
}
