//! Services: names and virtual addresses behind which workloads stand.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    NetworkAddress, SpiffeId,
    workload::{PortMap, Waypoint},
};

/// `namespace/hostname`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub name: String,
    pub namespace: String,
    pub hostname: String,
    pub vips: Vec<NetworkAddress>,
    /// Service port to the target port of endpoints that say nothing else.
    pub ports: PortMap,
    /// Identities its endpoints may prove besides their own.
    pub subject_alt_names: Vec<SpiffeId>,
    /// Traffic to it must pass this proxy first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Waypoint>,
}

impl Service {
    /// A service with everything but its names at its default.
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self {
            name: hostname.split('.').next().unwrap_or_default().to_owned(),
            namespace: namespace.to_owned(),
            hostname: hostname.to_owned(),
            vips: Vec::new(),
            ports: PortMap::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
        }
    }

    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.as_str().into(), hostname: self.hostname.as_str().into() }
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
