//! Where a control plane is.

use std::{fmt, str::FromStr};

use http::uri::Authority;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// `host:port`, with or without `https://` in front. Never without TLS: a token goes over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneAddress {
    authority: Authority,
    port: u16,
    server_name: ServerName<'static>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not `host:port` of a control plane that speaks TLS, such as `istiod.istio-system.svc:15012`"
)]
pub struct NotAnAddress(String);

impl ControlPlaneAddress {
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Without the brackets of IPv6.
    pub(super) fn host(&self) -> &str {
        bare(self.authority.host())
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What its certificate must be for.
    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }
}

impl FromStr for ControlPlaneAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || NotAnAddress(text.to_owned());
        let rest = text.strip_prefix("https://").unwrap_or(text);
        let authority: Authority = rest.parse().map_err(|_| invalid())?;
        let port = authority.port_u16().filter(|&port| port != 0).ok_or_else(invalid)?;
        if authority.as_str().contains('@') {
            return Err(invalid());
        }
        let name = ServerName::try_from(bare(authority.host()).to_owned()).map_err(|_| invalid())?;
        Ok(Self { authority, port, server_name: name })
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Display for ControlPlaneAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.authority.fmt(f)
    }
}

impl Serialize for ControlPlaneAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ControlPlaneAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
