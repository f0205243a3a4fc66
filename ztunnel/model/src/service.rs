//! Services: names and virtual addresses behind which workloads stand. Field names in text are those of Istio's local
//! configuration.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    SpiffeId, Workload,
    workload::{Health, PortMap, Waypoint},
};

mod load_balancer;
mod vip;

pub use load_balancer::{HealthPolicy, LoadBalancer, Mode, Scope};
pub use vip::{NotAVip, Vip};

/// `namespace/hostname`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
    pub vips: Vec<Vip>,
    /// Service port to the target port of endpoints that say nothing else; 0 where only endpoints know it.
    pub ports: PortMap,
    /// The names of its ports, where they are known: what DNS is asked for with SRV.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub port_names: BTreeMap<String, u16>,
    /// Identities its endpoints may prove besides their own.
    pub subject_alt_names: Vec<SpiffeId>,
    /// Traffic to it must pass this proxy first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Waypoint>,
    /// How endpoints are preferred; without it all healthy ones alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// The families of its endpoints' addresses that may be used; without it both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_families: Option<IpFamilies>,
    pub visibility: Visibility,
    /// Of several services of one name or address, the one that clients of other namespaces get.
    pub canonical: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamilies {
    Dual,
    IPv4,
    IPv6,
}

/// To whom a service exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visibility {
    #[default]
    Public,
    /// To workloads of its own namespace.
    Namespace,
}

impl Service {
    /// A service with everything but its names at its default.
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self {
            name: hostname.split('.').next().unwrap_or_default().into(),
            namespace: namespace.into(),
            hostname: hostname.into(),
            vips: Vec::new(),
            ports: PortMap::new(),
            port_names: BTreeMap::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            load_balancer: None,
            ip_families: None,
            visibility: Visibility::default(),
            canonical: false,
        }
    }

    /// Whether endpoints may be reached at this address.
    pub fn admits(&self, ip: IpAddr) -> bool {
        match self.ip_families {
            None | Some(IpFamilies::Dual) => true,
            Some(IpFamilies::IPv4) => ip.is_ipv4(),
            Some(IpFamilies::IPv6) => ip.is_ipv6(),
        }
    }

    /// Whether anybody is to be sent to this endpoint.
    pub fn wants(&self, endpoint: &Workload) -> bool {
        let any_health =
            self.load_balancer.as_ref().is_some_and(|b| b.health_policy == HealthPolicy::AllowAll);
        endpoint.capacity > 0 && (any_health || endpoint.status == Health::Healthy)
    }

    /// Whoever asks for one of its addresses means whoever has that address.
    pub(crate) fn chooses_nobody(&self) -> bool {
        self.load_balancer.as_ref().is_some_and(|balancer| balancer.mode == Mode::Passthrough)
    }

    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: Arc::clone(&self.namespace), hostname: Arc::clone(&self.hostname) }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not `namespace/hostname`")]
pub struct NotAServiceKey(String);

impl FromStr for ServiceKey {
    type Err = NotAServiceKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, hostname))
                if !namespace.is_empty() && !hostname.is_empty() && !hostname.contains('/') =>
            {
                Ok(Self { namespace: namespace.into(), hostname: hostname.into() })
            }
            _ => Err(NotAServiceKey(text.to_owned())),
        }
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
