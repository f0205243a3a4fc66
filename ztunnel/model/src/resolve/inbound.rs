//! What a CONNECT asks of the workload it arrives at.

use std::net::{IpAddr, SocketAddr};

use super::endpoint::target_port;
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
    let served = workload.services.iter().filter(|(key, _)| *key.hostname == *host);
    let mut known = served.filter_map(|(key, own)| Some((snapshot.service(key)?, own)));
    let target_port = known.find_map(|(service, own)| target_port(service, own, port));
    let target_port = target_port.ok_or_else(|| Refusal::UnknownDestination(authority.to_owned()))?;
    Ok(SocketAddr::new(arrived_at, target_port))
}
