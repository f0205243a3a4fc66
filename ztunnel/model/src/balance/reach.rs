//! Which address families lead to an endpoint, and which address a connection takes.

use std::net::{IpAddr, SocketAddr};

use crate::{Workload, service::Service};

/// Kinds of address by which an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    V4,
    V6,
    Both,
    /// It has no address, but a host name.
    ByName,
}

/// Where a connection to an endpoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Known(SocketAddr),
    /// The endpoint's host name is to be looked up.
    ByName {
        port: u16,
    },
}

impl Reach {
    pub(crate) const ALL: [Self; 4] = [Self::V4, Self::V6, Self::Both, Self::ByName];

    /// `None` if the endpoint has no address that the service admits.
    pub(crate) fn of_endpoint(service: &Service, endpoint: &Workload) -> Option<Self> {
        if endpoint.workload_ips.is_empty() {
            return (!endpoint.hostname.is_empty()).then_some(Self::ByName);
        }
        let admitted = || endpoint.workload_ips.iter().filter(|ip| service.admits(**ip));
        Self::of_families(admitted().any(IpAddr::is_ipv4), admitted().any(IpAddr::is_ipv6))
    }

    /// A client has the family by which it asked, whatever the state says of it.
    pub(crate) fn of_client(client: &Workload, asked: IpAddr) -> Self {
        let all = || client.workload_ips.iter().chain([&asked]);
        Self::of_families(all().any(|ip| ip.is_ipv4()), all().any(|ip| ip.is_ipv6())).unwrap_or(Self::Both)
    }

    pub(crate) fn meets(self, client: Self) -> bool {
        self == client || matches!(self, Self::Both | Self::ByName) || client == Self::Both
    }

    pub(crate) fn admits(self, ip: IpAddr) -> bool {
        self == Self::Both || self == if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn of_families(v4: bool, v6: bool) -> Option<Self> {
        match (v4, v6) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::V4),
            (false, true) => Some(Self::V6),
            (false, false) => None,
        }
    }
}

impl Address {
    /// The endpoint's first address that the service admits, of the family of `asked` if it has one of that.
    pub(crate) fn of(service: &Service, endpoint: &Workload, asked: IpAddr, port: u16) -> Option<Self> {
        if endpoint.workload_ips.is_empty() {
            return (!endpoint.hostname.is_empty()).then_some(Self::ByName { port });
        }
        let admitted = || endpoint.workload_ips.iter().filter(|ip| service.admits(**ip));
        let alike = admitted().find(|ip| ip.is_ipv4() == asked.is_ipv4());
        alike.or_else(|| admitted().next()).map(|ip| Self::Known(SocketAddr::new(*ip, port)))
    }
}
