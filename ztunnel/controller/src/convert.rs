//! PURE: what of the cluster becomes which resource of the wire, as istiod does it.

mod authorization;
mod endpoint;
mod matches;
mod peer_authentication;
mod service;
#[cfg(test)]
mod tests;
mod workload;

use std::net::IpAddr;

pub(crate) use authorization::{Verdict, authorization, selector};
pub(crate) use endpoint::endpoints;
pub(crate) use peer_authentication::{
    STATIC_STRICT, converted, converted_name, effective, peer_verdict, static_strict,
};
use proto::workload::NetworkAddress;
pub(crate) use service::service;
#[cfg(test)]
pub(crate) use tests::cluster;
pub(crate) use workload::{PodSurroundings, workload};

/// What is the same for all of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    pub(crate) network: String,
    /// Empty for the one that everybody assumes.
    pub(crate) trust_domain: String,
    pub(crate) domain: String,
    pub(crate) root_namespace: String,
}

impl Cluster {
    pub(crate) fn hostname(&self, namespace: &str, service: &str) -> String {
        format!("{service}.{namespace}.svc.{}", self.domain)
    }

    /// As a resource's name.
    pub(crate) fn service_name(&self, namespace: &str, service: &str) -> String {
        format!("{namespace}/{}", self.hostname(namespace, service))
    }

    pub(crate) fn pod_uid(&self, namespace: &str, pod: &str) -> String {
        format!("{}//Pod/{namespace}/{pod}", self.id)
    }

    fn network_address(&self, address: IpAddr) -> NetworkAddress {
        NetworkAddress { network: self.network.clone(), address: octets(address), length: None }
    }
}

fn octets(address: IpAddr) -> bytes::Bytes {
    match address {
        IpAddr::V4(address) => address.octets().to_vec().into(),
        IpAddr::V6(address) => address.octets().to_vec().into(),
    }
}
