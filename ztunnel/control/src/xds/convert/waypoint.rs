//! Waypoints, and addresses with their network.

use model::{
    Network, NetworkAddress,
    address::HBONE_PORT,
    service::{ServiceKey, Vip},
    workload::{Waypoint, WaypointDestination},
};
use proto::workload::{self as wire, gateway_address::Destination};

use super::{block, ip, port};

const WITHOUT_DESTINATION: &str = "a waypoint without destination";

pub(super) fn waypoint(told: wire::GatewayAddress) -> Result<Waypoint, String> {
    let destination = match told.destination.ok_or(WITHOUT_DESTINATION)? {
        Destination::Hostname(name) => {
            if name.hostname.is_empty() {
                return Err("a waypoint with an empty host name".to_owned());
            }
            let (namespace, hostname) = (name.namespace.into(), name.hostname.into());
            WaypointDestination::Hostname(ServiceKey { namespace, hostname })
        }
        Destination::Address(address) => WaypointDestination::Address(network_address(&address)?),
    };
    let hbone_mtls_port = match port(told.hbone_mtls_port)? {
        0 => HBONE_PORT,
        port => port,
    };
    Ok(Waypoint { destination, hbone_mtls_port })
}

/// Traffic is not shared out among several waypoints; it goes through the one that gets the most, never past all.
pub(super) fn heaviest(told: Vec<wire::WeightedWaypoint>) -> Result<Option<wire::GatewayAddress>, String> {
    let heaviest = told.into_iter().max_by_key(|waypoint| waypoint.weight);
    heaviest.map(|waypoint| waypoint.destination.ok_or_else(|| WITHOUT_DESTINATION.to_owned())).transpose()
}

fn network_address(told: &wire::NetworkAddress) -> Result<NetworkAddress, String> {
    Ok(NetworkAddress { network: Network::new(&told.network), ip: ip(&told.address)? })
}

pub(super) fn vip(told: &wire::NetworkAddress) -> Result<Vip, String> {
    let address = network_address(told)?;
    let Some(length) = told.length else { return Ok(address.into()) };
    Ok(Vip::new(address.network, block(&told.address, length)?))
}
