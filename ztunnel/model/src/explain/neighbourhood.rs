//! Whether a connection between two pods of one node goes past the network. Only that node's daemon knows: by its
//! configuration and by whom it has enrolled. Files say no more than that it may.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{TunnelRoute, Workload, WorkloadUid};

/// What a daemon knows of its own pods.
#[derive(Clone, Debug)]
pub struct Neighbourhood {
    pub node: String,
    /// Why all go through the tunnel, if they do.
    pub tunnel: Option<&'static str>,
    /// Those that are enrolled, at the addresses that they are served under.
    pub pods: BTreeMap<WorkloadUid, Vec<IpAddr>>,
}

/// The way between neighbours, and how that is known.
pub(super) enum Way {
    Direct(String),
    Tunnel(String),
    Unknown(String),
}

/// `None`: they are no neighbours, as far as is known here.
pub(super) fn way(asked: Option<&Neighbourhood>, client: &Workload, route: &TunnelRoute) -> Option<Way> {
    let beside_by_state = !client.node.is_empty() && client.node == route.destination.node;
    match asked {
        _ if !route.ends_at_destination() => None,
        Some(here) if here.pods.contains_key(&client.uid) => here.way(client, route, beside_by_state),
        // It is not served at all, which is told elsewhere.
        Some(here) if here.node == *client.node => None,
        _ if beside_by_state => Some(Way::Unknown(format!(
            "{}; where that node's configuration says `sameNode: direct`: without TLS, past the network. What \
             follows is decided alike",
            client.node
        ))),
        _ => None,
    }
}

impl Neighbourhood {
    /// Why nothing of what `client` sends comes to this daemon, if it is of its node.
    pub(super) fn why_not_taken(&self, client: &Workload) -> Option<String> {
        let is_ours = !self.node.is_empty() && self.node == *client.node;
        (is_ours && !self.pods.contains_key(&client.uid))
            .then(|| "it is on this node and not enrolled here".to_owned())
    }

    fn way(&self, client: &Workload, route: &TunnelRoute, beside_by_state: bool) -> Option<Way> {
        let (destination, ip) = (&route.destination.uid, route.authority.ip());
        let is_beside = self.pods.get(destination).is_some_and(|ips| ips.contains(&ip));
        match self.tunnel {
            None if is_beside && self.has_address_like(client, ip) => Some(Way::Direct(
                "directly: this daemon serves both, and has `sameNode: direct`. Without TLS, past the network; what \
                 follows is decided as through the tunnel"
                    .to_owned(),
            )),
            Some(why) if is_beside => Some(Way::Tunnel(format!("through the tunnel: {why}"))),
            _ if is_beside => {
                Some(Way::Tunnel(format!("through the tunnel: {} has no address like {ip}", client.uid)))
            }
            _ if beside_by_state => Some(Way::Tunnel(format!(
                "through the tunnel: {destination} is not enrolled by this daemon at {ip}"
            ))),
            _ => None,
        }
    }

    fn has_address_like(&self, client: &Workload, ip: IpAddr) -> bool {
        let own = self.pods.get(&client.uid).map(Vec::as_slice).unwrap_or_default();
        own.iter().any(|own| own.is_ipv4() == ip.is_ipv4())
    }
}
