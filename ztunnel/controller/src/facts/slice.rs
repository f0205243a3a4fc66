//! Endpoints that are no pods: kept by hand, or by another controller.

use std::net::IpAddr;

use kubernetes::k8s_openapi::api::discovery::v1 as api;

use super::{Key, key};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) key: Key,
    /// Of the same namespace.
    pub(crate) service: Option<String>,
    /// By the name of the service's port. Of TCP.
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) node: String,
}

impl Slice {
    /// Pods are known from their own watch, and with more.
    pub(crate) fn of(slice: api::EndpointSlice) -> Self {
        let key = key(&slice.metadata);
        let service = slice.metadata.labels.and_then(|mut labels| labels.remove(SERVICE_NAME));
        let is_pod = |endpoint: &api::Endpoint| {
            endpoint.target_ref.as_ref().is_some_and(|target| target.kind.as_deref() == Some("Pod"))
        };
        let endpoints = slice.endpoints.into_iter().filter(|endpoint| !is_pod(endpoint)).filter_map(endpoint);
        let is_tcp =
            |port: &api::EndpointPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let ports = slice
            .ports
            .into_iter()
            .flatten()
            .filter(is_tcp)
            .filter_map(|port| Some((port.name.unwrap_or_default(), u16::try_from(port.port?).ok()?)));
        Self { key, service, ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

fn endpoint(endpoint: api::Endpoint) -> Option<Endpoint> {
    let conditions = endpoint.conditions.unwrap_or_default();
    Some(Endpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        // Unknown counts as ready.
        ready: conditions.ready.unwrap_or(true),
        node: endpoint.node_name.unwrap_or_default(),
    })
}
