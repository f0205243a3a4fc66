//! What a CONNECT asks of the workload it arrives at.

use std::net::{IpAddr, SocketAddr};

use super::endpoint::endpoint_port;
use crate::{Refusal, Snapshot, Workload, address::RESERVED_PORTS};

/// The application address that a CONNECT's authority names: an address of this very workload, or the port of a
/// service that this workload is an endpoint of. `arrived_at` is the address the tunnel itself was sent to.
pub fn resolve_authority(
    snapshot: &Snapshot,
    workload: &Workload,
    arrived_at: IpAddr,
    authority: &str,
) -> Result<SocketAddr, Refusal> {
    let arrived_at = arrived_at.to_canonical();
    let target = match authority.parse::<SocketAddr>() {
        Ok(target) => target,
        Err(_) => service_target(snapshot, workload, arrived_at, authority)?,
    };
    if target.ip() != arrived_at || !workload.has_ip(target.ip()) {
        return Err(Refusal::WrongDestination(target));
    }
    if target.port() == 0 || RESERVED_PORTS.contains(&target.port()) {
        return Err(Refusal::ReservedPort(target.port()));
    }
    Ok(target)
}

/// Several namespaces may have a service of this name; meant is one that this workload serves.
fn service_target(
    snapshot: &Snapshot,
    workload: &Workload,
    arrived_at: IpAddr,
    authority: &str,
) -> Result<SocketAddr, Refusal> {
    let malformed = || Refusal::BadAuthority(authority.to_owned());
    let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let own = workload.services.keys().filter(|key| *key.hostname == *host);
    let mut services = own.filter_map(|key| snapshot.service(key));
    let target_port = services.find_map(|service| endpoint_port(service, workload, port));
    let target_port = target_port.ok_or_else(|| Refusal::UnknownDestination(authority.to_owned()))?;
    Ok(SocketAddr::new(arrived_at, target_port))
}
