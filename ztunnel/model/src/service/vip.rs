//! Virtual addresses: one, or a whole block of them.

use std::{fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Network, NetworkAddress, address::NotANetworkAddress};

/// Addresses that stand for a service, in one network. Text form: `network/ip` or `network/ip/length`, `/ip` in the
/// unnamed network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vip {
    pub network: Network,
    block: IpNet,
}

impl Vip {
    /// Bits beyond the block's length say nothing and are dropped.
    pub fn new(network: Network, block: IpNet) -> Self {
        Self { network, block: block.trunc() }
    }

    pub fn block(&self) -> IpNet {
        self.block
    }

    /// One address, not a block.
    pub fn is_exact(&self) -> bool {
        self.block.prefix_len() == self.block.max_prefix_len()
    }
}

impl From<NetworkAddress> for Vip {
    fn from(address: NetworkAddress) -> Self {
        Self { network: address.network, block: address.ip.into() }
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (network, block) = (self.network.as_str(), self.block);
        if self.is_exact() { write!(f, "{network}/{}", block.addr()) } else { write!(f, "{network}/{block}") }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not `network/ip` or `network/ip/length` (the network may be empty: `/10.0.0.1`)")]
pub struct NotAVip(String);

impl FromStr for Vip {
    type Err = NotAVip;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || NotAVip(text.to_owned());
        let (network, block) = text.split_once('/').ok_or_else(invalid)?;
        if block.contains('/') {
            return Ok(Self::new(Network::new(network), block.parse().map_err(|_| invalid())?));
        }
        text.parse::<NetworkAddress>().map(Self::from).map_err(|_: NotANetworkAddress| invalid())
    }
}

impl Serialize for Vip {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_survives_its_text_form() {
        for text in ["/10.0.0.1", "net-2/fd00::1", "/10.0.0.0/8", "n/fc00::/7"] {
            assert_eq!(text.parse::<Vip>().unwrap().to_string(), text);
        }
        assert_eq!("/10.1.2.3/8".parse::<Vip>().unwrap(), "/10.0.0.0/8".parse().unwrap());
        assert_eq!("/10.1.2.3/32".parse::<Vip>().unwrap(), "/10.1.2.3".parse().unwrap());
        for text in ["10.0.0.1", "10.0.0.0/8", "net/", "/10.0.0.0/33", "/10.0.0.0/", ""] {
            assert!(text.parse::<Vip>().is_err(), "{text}");
        }
    }
}
