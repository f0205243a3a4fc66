//! Workloads: the pods and hosts of the mesh. Field names in text are those of Istio's local configuration.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Network, NetworkAddress, SpiffeId, identity::InvalidIdentity, policy::PolicyKey, service::ServiceKey,
    small_map::SmallMap,
};

/// A workload's name for all time, such as `Kubernetes//Pod/default/client`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkloadUid(Arc<str>);

impl WorkloadUid {
    pub fn new(uid: &str) -> Self {
        Self(uid.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Plaintext, as it is.
    #[default]
    Tcp,
    /// Through the mutual TLS tunnel on port 15008.
    Hbone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    #[default]
    Standard,
    /// The workload shares its node's addresses, so no tunnel can end in its own namespace.
    HostNetwork,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadType {
    #[default]
    Deployment,
    Cronjob,
    Pod,
    Job,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// The application ends tunnels itself: whatever is asked of the workload comes to it at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationTunnel {
    #[serde(default)]
    pub protocol: ApplicationProtocol,
    /// If there is none, the port that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ApplicationProtocol {
    /// It is told nothing.
    #[default]
    None,
    /// The PROXY protocol, version 2, on the pod's loopback: nobody but the proxy can speak for others there.
    Proxy,
}

/// Service port to target port.
pub type PortMap = SmallMap<u16, u16>;

/// There may be a hundred thousand: what many say alike they share ([`crate::texts::Texts`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub uid: WorkloadUid,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// Who it is: trust domain, namespace and service account as one.
    pub identity: SpiffeId,
    pub workload_ips: Vec<IpAddr>,
    pub network: Network,
    pub network_mode: NetworkMode,
    pub protocol: Protocol,
    pub status: Health,
    pub node: Arc<str>,
    pub hostname: Arc<str>,
    pub cluster_id: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub workload_name: Arc<str>,
    pub workload_type: WorkloadType,
    pub locality: Arc<Locality>,
    /// Weight among the endpoints of a service.
    pub capacity: u32,
    /// The services it is an endpoint of, with the target ports it overrides.
    pub services: SmallMap<ServiceKey, PortMap>,
    /// Selector-scoped policies that name it, as `namespace/name`.
    pub authorization_policies: Vec<PolicyKey>,
    /// It ends tunnels itself, on a port of its own pod, with no node proxy in front.
    pub native_tunnel: bool,
    /// Its traffic must pass this proxy first.
    pub waypoint: Option<Box<Waypoint>>,
    pub application_tunnel: Option<ApplicationTunnel>,
}

/// A waypoint proxy, named by address or by host name, and its HBONE port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Waypoint {
    pub destination: WaypointDestination,
    #[serde(default = "Waypoint::default_port")]
    pub hbone_mtls_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WaypointDestination {
    Address(NetworkAddress),
    Hostname(ServiceKey),
}

impl fmt::Display for WaypointDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hostname(service) => service.fmt(f),
        }
    }
}

impl Waypoint {
    fn default_port() -> u16 {
        crate::address::HBONE_PORT
    }
}

impl Workload {
    /// A workload with everything but its essentials at its default.
    pub fn new(uid: WorkloadUid, name: &str, identity: SpiffeId, workload_ips: Vec<IpAddr>) -> Self {
        Self {
            uid,
            name: name.into(),
            namespace: identity.namespace().into(),
            identity,
            workload_ips,
            network: Network::default(),
            network_mode: NetworkMode::default(),
            protocol: Protocol::default(),
            status: Health::default(),
            node: Arc::default(),
            hostname: Arc::default(),
            cluster_id: Arc::default(),
            canonical_name: Arc::default(),
            canonical_revision: Arc::default(),
            workload_name: Arc::default(),
            workload_type: WorkloadType::default(),
            locality: Arc::default(),
            capacity: 1,
            services: SmallMap::new(),
            authorization_policies: Vec::new(),
            native_tunnel: false,
            waypoint: None,
            application_tunnel: None,
        }
    }

    pub fn addresses(&self) -> impl Iterator<Item = NetworkAddress> + '_ {
        self.workload_ips.iter().map(|&ip| NetworkAddress { network: self.network.clone(), ip })
    }

    pub fn has_ip(&self, ip: IpAddr) -> bool {
        self.workload_ips.contains(&ip)
    }

    /// Its first address of the family of `like`: a v4 client is served over v4.
    pub fn address_like(&self, like: IpAddr, port: u16) -> Option<SocketAddr> {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == like.is_ipv4();
        self.workload_ips.iter().find(same_family).map(|&ip| SocketAddr::new(ip, port))
    }
}

/// An identity error says which workload it is about.
#[derive(Debug, thiserror::Error)]
#[error("workload `{uid}`: {source}")]
pub struct InvalidWorkload {
    pub uid: WorkloadUid,
    pub source: InvalidIdentity,
}
