//! A service.

use std::net::IpAddr;

use kubernetes::k8s_openapi::{api::core::v1 as api, apimachinery::pkg::util::intstr::IntOrString};

use super::{Key, Labels, key};

/// Says how near endpoints are preferred, where the field is not there.
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) key: Key,
    /// Empty if it is headless.
    pub(crate) addresses: Vec<IpAddr>,
    /// Empty if its endpoints are kept by hand.
    pub(crate) selector: Labels,
    /// Of TCP.
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) families: Vec<String>,
    /// Only endpoints of the client's own node.
    pub(crate) local_only: bool,
    pub(crate) distribution: Option<String>,
    pub(crate) publishes_unready: bool,
    /// A name for something outside.
    pub(crate) external_name: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) target: TargetPort,
    pub(crate) protocol: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    /// Of a container's port.
    Name(String),
}

impl Service {
    pub(crate) fn of(service: api::Service) -> Self {
        let key = key(&service.metadata);
        let annotated =
            service.metadata.annotations.and_then(|mut annotations| annotations.remove(DISTRIBUTION));
        let spec = service.spec.unwrap_or_default();
        let single = spec.cluster_ip.filter(|_| spec.cluster_ips.as_ref().is_none_or(Vec::is_empty));
        let addresses = spec.cluster_ips.unwrap_or_default().into_iter().chain(single);
        Self {
            key,
            // "None" is no address.
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            selector: spec.selector.unwrap_or_default(),
            ports: spec.ports.unwrap_or_default().into_iter().filter_map(port).collect(),
            families: spec.ip_families.unwrap_or_default(),
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            distribution: spec.traffic_distribution.or(annotated),
            publishes_unready: spec.publish_not_ready_addresses.unwrap_or_default(),
            external_name: spec.type_.as_deref() == Some("ExternalName"),
        }
    }

    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        !self.external_name && !self.selector.is_empty() && super::selects(&self.selector, labels)
    }
}

fn port(port: api::ServicePort) -> Option<ServicePort> {
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let number = u16::try_from(port.port).ok()?;
    let target = match port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(target).ok()?),
        Some(IntOrString::String(text)) => text.parse().map_or(TargetPort::Name(text), TargetPort::Number),
    };
    Some(ServicePort {
        name: port.name.unwrap_or_default(),
        port: number,
        target,
        protocol: port.app_protocol,
    })
}
