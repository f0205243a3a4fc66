//! Whether a connection may be opened. The answer is a [`Permit`], which only this module can make and which
//! opening a connection consumes: an unauthorized dial does not compile.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

use crate::{
    ApplicationRoute, ClientAddr, DirectRoute, NetworkAddress, PassthroughRoute, Refusal, Route, Snapshot,
    SpiffeId, TunnelRoute, Workload,
    address::RESERVED_PORTS,
    mtls::mtls_under,
    policy::{Attributes, PolicyKey},
    resolve::{is_held, target_ports},
    settings::{Egress, Regime},
    workload::{ApplicationProtocol, Protocol},
};

mod judge;
#[cfg(test)]
mod tests;

pub use crate::mtls::MtlsMode;

/// Leave to open one connection along `R`.
#[derive(Debug)]
pub struct Permit<R>(R);

impl<R> Permit<R> {
    pub fn route(&self) -> &R {
        &self.0
    }

    /// To open the connection.
    pub fn into_route(self) -> R {
        self.0
    }
}

impl Permit<TunnelRoute> {
    /// Leave to go past the network instead, where nobody but the destination's own proxy is in between and `find` knows
    /// that one as a neighbour. The destination is asked for its own leave all the same.
    #[expect(clippy::result_large_err, reason = "not an error: the permit as it was")]
    pub fn shorten<N>(
        self,
        find: impl FnOnce(&TunnelRoute) -> Option<N>,
    ) -> Result<(Permit<DirectRoute>, N), Self> {
        let Self(route) = self;
        let found = if route.ends_at_destination() { find(&route) } else { None };
        let Some(neighbour) = found else { return Err(Self(route)) };
        let TunnelRoute { source, authority: target, destination, .. } = route;
        Ok((Permit(DirectRoute { source, target, destination }), neighbour))
    }
}

/// Leave to open the connection an application asked for.
#[derive(Debug)]
pub enum OutboundPermit {
    Tunnel(Permit<TunnelRoute>),
    Passthrough(Permit<PassthroughRoute>),
}

/// Outbound, the mesh decides at the destination; here only what could never work, would loop, or leaves the mesh
/// when `source` must not, is refused.
pub fn authorize_outbound(
    snapshot: &Snapshot,
    source: &Workload,
    route: Route,
) -> Result<OutboundPermit, Refusal> {
    match route {
        Route::Tunnel(route) => {
            refuse_reserved(route.authority.port())?;
            Ok(OutboundPermit::Tunnel(Permit(route)))
        }
        Route::Passthrough(route) => {
            refuse_unknown(snapshot, source, &route)?;
            // A reserved port of a mesh workload is a proxy's: plaintext there loops or leaks.
            if route.destination.as_ref().is_some_and(|w| w.protocol == Protocol::Hbone) {
                refuse_reserved(route.target.port())?;
            }
            Ok(OutboundPermit::Passthrough(Permit(route)))
        }
    }
}

/// What is known of a connection that arrives at a local workload.
#[derive(Clone, Copy, Debug)]
pub struct InboundFacts<'a> {
    pub client: ClientAddr,
    /// The identity proven by mutual TLS; `None` for plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// The application's address.
    pub target: SocketAddr,
    /// The mode that the workload's own node asks for, if it does.
    pub mtls: Option<MtlsMode>,
}

/// Whether a policy, or its absence, may refuse somebody at `workload`.
pub fn is_restricted(snapshot: &Snapshot, workload: &Workload) -> bool {
    judge::is_restricted(snapshot, workload)
}

/// What becomes of a connection, and what would.
#[derive(Debug)]
pub struct Verdict {
    pub decision: Result<Allowed, Refusal>,
    /// What becomes of it if all that is only audited is put in force; `None` where nothing is audited.
    pub audit: Option<Audit>,
}

#[derive(Debug)]
pub struct Allowed {
    pub permit: Permit<ApplicationRoute>,
    /// The policy that allows it; `None` where no policy is needed.
    pub by: Option<PolicyKey>,
}

/// A decision that nobody acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    Allowed { by: Option<PolicyKey> },
    Refused(Refusal),
}

impl Audit {
    /// `allowed`, or the refusal's own reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Allowed { .. } => "allowed",
            Self::Refused(refusal) => refusal.reason(),
        }
    }

    pub fn policy(&self) -> Option<&PolicyKey> {
        match self {
            Self::Allowed { by } => by.as_ref(),
            Self::Refused(refusal) => refusal.policy(),
        }
    }
}

pub fn authorize_inbound(
    snapshot: &Snapshot,
    destination: &Arc<Workload>,
    facts: &InboundFacts<'_>,
) -> Verdict {
    // Policies speak of IPv4 addresses as such, and a dual-stack socket shows them in IPv6 clothes.
    let client = facts.client.0.ip().to_canonical();
    let target = SocketAddr::new(facts.target.ip().to_canonical(), facts.target.port());
    let decide = |regime| decide(regime, snapshot, destination, client, target, facts);
    let decision = decide(Regime::Enforced).map(|by| {
        let route = application_route(destination, client, target, facts.peer.is_some());
        Allowed { permit: Permit(route), by }
    });
    let audit = judge::is_audited(snapshot, destination).then(|| match decide(Regime::Audited) {
        Ok(by) => Audit::Allowed { by },
        Err(refusal) => Audit::Refused(refusal),
    });
    Verdict { decision, audit }
}

/// What comes in plaintext has been asked of a port itself, past any tunnel.
fn application_route(
    destination: &Arc<Workload>,
    client: IpAddr,
    target: SocketAddr,
    is_tunnelled: bool,
) -> ApplicationRoute {
    let tunnel = destination.application_tunnel.filter(|_| is_tunnelled);
    let port = tunnel.and_then(|tunnel| tunnel.port).map_or(target.port(), NonZeroU16::get);
    let destination = Arc::clone(destination);
    if tunnel.is_some_and(|tunnel| tunnel.protocol == ApplicationProtocol::Proxy) {
        let loopback: IpAddr = match target.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let target = SocketAddr::new(loopback, port);
        return ApplicationRoute { destination, target, source: None, is_told: true };
    }
    let source = (client != target.ip()).then_some(client);
    ApplicationRoute { destination, target: SocketAddr::new(target.ip(), port), source, is_told: false }
}

/// What is told is on the pod's loopback, with whatever else listens there and trusts it. Where the mesh's owner has named
/// no port for it, only those that a service has there are asked for.
fn may_be_told(snapshot: &Snapshot, destination: &Workload, port: u16) -> bool {
    let Some(tunnel) = destination.application_tunnel else { return true };
    let serves = || {
        let mut served = destination.services.iter();
        served.any(|(key, own)| {
            snapshot.service(key).is_some_and(|service| target_ports(service, own).any(|at| at == port))
        })
    };
    tunnel.protocol != ApplicationProtocol::Proxy || tunnel.port.is_some() || serves()
}

/// The policy that allows it, if one is needed.
fn decide(
    regime: Regime,
    snapshot: &Snapshot,
    destination: &Workload,
    client: IpAddr,
    target: SocketAddr,
    facts: &InboundFacts<'_>,
) -> Result<Option<PolicyKey>, Refusal> {
    let InboundFacts { peer, mtls, .. } = *facts;
    if !destination.has_ip(target.ip()) {
        return Err(Refusal::WrongDestination(target));
    }
    refuse_reserved(target.port())?;
    if peer.is_some() && !may_be_told(snapshot, destination, target.port()) {
        return Err(Refusal::NotServed(target));
    }
    let mode = mtls_under(regime, snapshot, destination, target.port(), mtls).mode;
    let domains = snapshot.trust_domains();
    match peer {
        None if mode == MtlsMode::Strict => return Err(Refusal::PlaintextInStrict),
        Some(_) if mode == MtlsMode::Disable => return Err(Refusal::MtlsDisabled),
        // The handshake has held the peer against the bundle of its trust domain; that it has one is asked again.
        Some(peer) if !domains.accept(destination.identity.trust_domain(), peer.trust_domain()) => {
            return Err(Refusal::OtherTrustDomain(peer.trust_domain().clone()));
        }
        _ => {}
    }
    let other_names = peer.map(|peer| domains.other_names(peer)).unwrap_or_default();
    let attributes = Attributes {
        peer,
        other_names: &other_names,
        source_ip: client,
        destination_ip: target.ip(),
        destination_port: target.port(),
    };
    judge::judge(regime, snapshot, destination, &attributes)
}

fn refuse_unknown(snapshot: &Snapshot, source: &Workload, route: &PassthroughRoute) -> Result<(), Refusal> {
    let known = route.destination.is_some() || route.service.is_some();
    if known { Ok(()) } else { authorize_outsider(snapshot, source, route.target) }
}

/// Whether `source` may be, or stay, connected to somebody who was not known when it connected.
pub fn authorize_outsider(snapshot: &Snapshot, source: &Workload, target: SocketAddr) -> Result<(), Refusal> {
    if snapshot.settings().egress(&source.namespace) == Egress::Passthrough {
        return Ok(());
    }
    let address = NetworkAddress { network: source.network.clone(), ip: target.ip() };
    let known = snapshot.is_node_address(&address) || is_held(snapshot, source, target.ip());
    if known { Ok(()) } else { Err(Refusal::NotInRegistry(target)) }
}

fn refuse_reserved(port: u16) -> Result<(), Refusal> {
    if RESERVED_PORTS.contains(&port) { Err(Refusal::ReservedPort(port)) } else { Ok(()) }
}
