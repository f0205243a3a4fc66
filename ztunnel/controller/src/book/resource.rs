//! One resource, encoded once for all who get it.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use proto::{
    discovery,
    prost::Message,
    security::{Authorization, Scope},
    workload::{Address, NetworkAddress, Service, Workload, address::Type},
};

use super::Kind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) name: Arc<str>,
    pub(crate) value: Bytes,
    /// The same for the same content, whichever replica made it.
    pub(crate) version: String,
    /// By which other names it is asked for: its addresses, and for a workload its services.
    pub(crate) related: Vec<Arc<str>>,
    /// How many of these are names of its own.
    aliases: usize,
    pub(crate) is_service: bool,
    /// A policy of selected workloads, which they name.
    pub(crate) is_selected: bool,
}

impl Resource {
    pub(crate) fn workload(workload: Workload) -> Self {
        let network = workload.network.clone();
        let addresses = workload.addresses.iter().filter_map(|octets| address(&network, octets));
        let mut related: Vec<Arc<str>> = addresses.collect();
        if workload.network_mode() == proto::workload::NetworkMode::HostNetwork {
            // The node's address is nobody's own.
            related.clear();
        }
        let aliases = related.len();
        related.extend(workload.services.keys().map(|service| service.as_str().into()));
        let name = workload.uid.as_str().into();
        let value: Bytes = Address { r#type: Some(Type::Workload(workload)) }.encode_to_vec().into();
        let version = version(&value);
        Self { name, value, version, related, aliases, is_service: false, is_selected: false }
    }

    pub(crate) fn service(service: Service) -> Self {
        let name = format!("{}/{}", service.namespace, service.hostname).into();
        let address = |told: &NetworkAddress| address(&told.network, &told.address);
        let related: Vec<Arc<str>> = service.addresses.iter().filter_map(address).collect();
        let aliases = related.len();
        let value: Bytes = Address { r#type: Some(Type::Service(service)) }.encode_to_vec().into();
        let version = version(&value);
        Self { name, value, version, related, aliases, is_service: true, is_selected: false }
    }

    pub(crate) fn authorization(policy: &Authorization) -> Self {
        let name = format!("{}/{}", policy.namespace, policy.name).into();
        let value: Bytes = policy.encode_to_vec().into();
        let version = version(&value);
        let is_selected = policy.scope() == Scope::WorkloadSelector;
        Self { name, value, version, related: Vec::new(), aliases: 0, is_service: false, is_selected }
    }

    pub(crate) fn on_the_wire(&self, kind: Kind) -> discovery::Resource {
        let content = discovery::Any { type_url: kind.type_url().to_owned(), value: self.value.clone() };
        discovery::Resource {
            version: self.version.clone(),
            resource: Some(content),
            name: self.name.to_string(),
            aliases: self.related.iter().take(self.aliases).map(ToString::to_string).collect(),
        }
    }

    /// Whether who asked for these names wants to know of it.
    pub(crate) fn is_among<V>(&self, names: &BTreeMap<Arc<str>, V>) -> bool {
        names.contains_key(&self.name) || self.related.iter().any(|name| names.contains_key(name))
    }
}

fn version(value: &[u8]) -> String {
    digest(&SHA256, value).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// `network/address`.
fn address(network: &str, octets: &[u8]) -> Option<Arc<str>> {
    let address = match octets.len() {
        4 => std::net::IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        16 => std::net::IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    Some(format!("{network}/{address}").into())
}
