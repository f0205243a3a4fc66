//! Addresses that cannot be confused with one another.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// Inside each pod's network namespace and on the wire: the port of HBONE.
pub const HBONE_PORT: u16 = 15008;

/// Ports that belong to the mesh itself. A tunnel to one of them could only loop, so it is refused.
pub const RESERVED_PORTS: [u16; 5] = [15001, 15006, HBONE_PORT, 15053, 15080];

/// The address a connection came from, as its accepting socket saw it. Never proof of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ClientAddr(pub SocketAddr);

/// The address the client asked for, before anything was redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct OriginalDst(pub SocketAddr);

/// What a captured connection wants of us; decided by the listener it was steered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The pod's own application connects to somebody.
    Outbound,
    /// Somebody connects to the pod without a tunnel.
    InboundPlaintext,
    /// A peer proxy connects to the pod's HBONE port.
    InboundHbone,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Outbound, Self::InboundPlaintext, Self::InboundHbone];
}

/// A name for a set of addresses that reach each other directly; empty for the mesh's only network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Network(Arc<str>);

impl Network {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Arc<str>> for Network {
    fn from(name: Arc<str>) -> Self {
        Self(name)
    }
}

/// An IP address qualified by its network. Text form: `network/ip`, `/ip` in the unnamed network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    pub network: Network,
    pub ip: IpAddr,
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network.as_str(), self.ip)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not `network/ip` (the network may be empty: `/10.0.0.1`)")]
pub struct NotANetworkAddress(String);

impl FromStr for NetworkAddress {
    type Err = NotANetworkAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || NotANetworkAddress(text.to_owned());
        let (network, ip) = text.split_once('/').ok_or_else(invalid)?;
        let ip = ip.parse().map_err(|_| invalid())?;
        Ok(Self { network: Network::new(network), ip })
    }
}

impl Serialize for NetworkAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NetworkAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_address_survives_its_text_form() {
        for text in ["/10.0.0.1", "net-2/fd00::1"] {
            assert_eq!(text.parse::<NetworkAddress>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.1", "net/", "net/10.0.0", ""] {
            assert!(text.parse::<NetworkAddress>().is_err(), "{text}");
        }
    }
}
