//! What a CONNECT asks of the workload it arrives at.

use std::net::{IpAddr, SocketAddr};

use super::endpoint::target_port;
use crate::{
    Refusal, Snapshot, Workload, address::RESERVED_PORTS, service::Service, workload::ApplicationProtocol,
};

/// What a CONNECT asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// An address of the workload itself. Policies decide on it.
    pub target: SocketAddr,
    /// The address that the client named, and another's only where the application ends tunnels itself.
    pub named: SocketAddr,
}

/// The application address that a CONNECT's authority names: an address of this very workload, or the port of a
/// service that this workload is an endpoint of. `arrived_at` is the address the tunnel itself was sent to.
///
/// An application that is told what was named, such as a waypoint, decides itself what becomes of it.
pub fn resolve_authority(
    snapshot: &Snapshot,
    workload: &Workload,
    arrived_at: IpAddr,
    authority: &str,
) -> Result<Asked, Refusal> {
    let arrived_at = arrived_at.to_canonical();
    let is_told =
        workload.application_tunnel.is_some_and(|tunnel| tunnel.protocol == ApplicationProtocol::Proxy);
    let asked = match authority.parse::<SocketAddr>() {
        Ok(named) if is_told => Asked { target: SocketAddr::new(arrived_at, named.port()), named },
        Ok(target) => Asked { target, named: target },
        Err(_) => of_service(snapshot, workload, arrived_at, authority)?,
    };
    let target = asked.target;
    if target.ip() != arrived_at || !workload.has_ip(target.ip()) {
        return Err(Refusal::WrongDestination(target));
    }
    if target.port() == 0 || RESERVED_PORTS.contains(&target.port()) {
        return Err(Refusal::ReservedPort(target.port()));
    }
    Ok(asked)
}

/// Several namespaces may have a service of this name; meant is one that this workload serves.
fn of_service(
    snapshot: &Snapshot,
    workload: &Workload,
    arrived_at: IpAddr,
    authority: &str,
) -> Result<Asked, Refusal> {
    let malformed = || Refusal::BadAuthority(authority.to_owned());
    let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let served = workload.services.iter().filter(|(key, _)| *key.hostname == *host);
    let mut known = served.filter_map(|(key, own)| Some((snapshot.service(key)?, own)));
    let found = known
        .find_map(|(service, own)| Some((target_port(service, own, port)?, service_ip(service, workload))));
    let (target, ip) = found.ok_or_else(|| Refusal::UnknownDestination(authority.to_owned()))?;
    let target = SocketAddr::new(arrived_at, target);
    Ok(Asked { target, named: ip.map_or(target, |ip| SocketAddr::new(ip, port)) })
}

/// Its first address in the workload's network, IPv4 before IPv6.
fn service_ip(service: &Service, workload: &Workload) -> Option<IpAddr> {
    let own = service.vips.iter().filter(|vip| vip.is_exact() && vip.network == workload.network);
    own.map(|vip| vip.block().addr()).min_by_key(IpAddr::is_ipv6)
}
