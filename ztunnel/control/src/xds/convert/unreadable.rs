//! Of a workload or service that cannot be used: the addresses that it has all the same. If it were forgotten they would be
//! an outsider's, who gets plaintext.

use model::{Network, NetworkAddress};
use proto::{
    discovery::Resource,
    prost::Message,
    workload::{Address, NetworkMode, address::Type, service::Visibility},
};

use super::{ip, waypoint::vip};

/// What can be read of them. Where nothing can be decoded, those that the resource may be asked for by.
pub(super) fn addresses(resource: &Resource) -> Vec<NetworkAddress> {
    let bytes = resource.resource.as_ref().map(|any| any.value.clone()).unwrap_or_default();
    let mut all = match Address::decode(bytes).ok().and_then(|address| address.r#type) {
        // Those of its node, whom everybody speaks to in plaintext.
        Some(Type::Workload(told)) if told.network_mode == i32::from(NetworkMode::HostNetwork) => Vec::new(),
        Some(Type::Workload(told)) => {
            let network = Network::new(&told.network);
            let readable = told.addresses.iter().filter_map(|bytes| ip(bytes).ok());
            readable.map(|ip| NetworkAddress { network: network.clone(), ip }).collect()
        }
        // To others it does not exist, nor may it keep them from anybody.
        Some(Type::Service(told)) if told.visibility != i32::from(Visibility::Public) => Vec::new(),
        Some(Type::Service(told)) => {
            let exact = told.addresses.iter().filter_map(|told| vip(told).ok()).filter(|vip| vip.is_exact());
            exact.map(|vip| NetworkAddress { ip: vip.block().addr(), network: vip.network }).collect()
        }
        None => {
            let named = resource.aliases.iter().chain([&resource.name]);
            named.filter_map(|name| name.parse().ok()).collect()
        }
    };
    all.sort();
    all.dedup();
    all
}
