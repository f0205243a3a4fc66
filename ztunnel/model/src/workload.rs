//! Workloads: the pods and hosts of the mesh. Field names in text are those of Istio's local configuration.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Network, NetworkAddress, SpiffeId, identity::InvalidIdentity, policy::PolicyKey, service::ServiceKey,
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

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

/// Service port to target port.
pub type PortMap = BTreeMap<u16, u16>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub uid: WorkloadUid,
    pub name: String,
    pub namespace: String,
    /// Who it is: trust domain, namespace and service account as one.
    pub identity: SpiffeId,
    pub workload_ips: Vec<IpAddr>,
    pub network: Network,
    pub network_mode: NetworkMode,
    pub protocol: Protocol,
    pub status: Health,
    pub node: String,
    pub hostname: String,
    pub cluster_id: String,
    pub canonical_name: String,
    pub canonical_revision: String,
    pub workload_name: String,
    pub workload_type: WorkloadType,
    pub locality: Locality,
    /// Weight among the endpoints of a service.
    pub capacity: u32,
    /// The services it is an endpoint of, with the target ports it overrides.
    pub services: BTreeMap<ServiceKey, PortMap>,
    /// Selector-scoped policies that name it, as `namespace/name`.
    pub authorization_policies: Vec<PolicyKey>,
    /// It ends tunnels itself, on a port of its own pod, with no node proxy in front.
    pub native_tunnel: bool,
    /// Its traffic must pass this proxy first.
    pub waypoint: Option<Waypoint>,
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
            name: name.to_owned(),
            namespace: identity.namespace().to_owned(),
            identity,
            workload_ips,
            network: Network::default(),
            network_mode: NetworkMode::default(),
            protocol: Protocol::default(),
            status: Health::default(),
            node: String::new(),
            hostname: String::new(),
            cluster_id: String::new(),
            canonical_name: String::new(),
            canonical_revision: String::new(),
            workload_name: String::new(),
            workload_type: WorkloadType::default(),
            locality: Locality::default(),
            capacity: 1,
            services: BTreeMap::new(),
            authorization_policies: Vec::new(),
            native_tunnel: false,
            waypoint: None,
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
