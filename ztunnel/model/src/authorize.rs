//! Whether a connection may be opened. The answer is a [`Permit`], which only this module can make and which
//! opening a connection consumes: an unauthorized dial does not compile.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    ApplicationRoute, ClientAddr, PassthroughRoute, Refusal, Route, Snapshot, SpiffeId, TunnelRoute,
    Workload,
    address::RESERVED_PORTS,
    policy::{Action, Attributes, compiled::Compiled},
    workload::Protocol,
};

#[cfg(test)]
mod tests;

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

/// Leave to open the connection an application asked for.
#[derive(Debug)]
pub enum OutboundPermit {
    Tunnel(Permit<TunnelRoute>),
    Passthrough(Permit<PassthroughRoute>),
}

/// Whether a workload accepts connections that prove no identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    #[default]
    Permissive,
    Strict,
}

/// Outbound, the mesh decides at the destination; here only what could never work or would loop is refused.
pub fn authorize_outbound(route: Route) -> Result<OutboundPermit, Refusal> {
    match route {
        Route::Tunnel(route) => {
            refuse_reserved(route.authority.port())?;
            Ok(OutboundPermit::Tunnel(Permit(route)))
        }
        Route::Passthrough(route) => {
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
    pub mtls: MtlsMode,
}

pub fn authorize_inbound(
    snapshot: &Snapshot,
    destination: &Arc<Workload>,
    facts: &InboundFacts<'_>,
) -> Result<Permit<ApplicationRoute>, Refusal> {
    let InboundFacts { client: ClientAddr(client), peer, target, mtls } = *facts;
    // Policies speak of IPv4 addresses as such, and a dual-stack socket shows them in IPv6 clothes.
    let (client_ip, target) =
        (client.ip().to_canonical(), SocketAddr::new(target.ip().to_canonical(), target.port()));
    if !destination.has_ip(target.ip()) {
        return Err(Refusal::WrongDestination(target));
    }
    refuse_reserved(target.port())?;
    match peer {
        None if mtls == MtlsMode::Strict => return Err(Refusal::PlaintextInStrict),
        Some(peer) if peer.trust_domain() != destination.identity.trust_domain() => {
            return Err(Refusal::OtherTrustDomain(peer.trust_domain().clone()));
        }
        _ => {}
    }
    let attributes = Attributes {
        peer,
        source_ip: client_ip,
        destination_ip: target.ip(),
        destination_port: target.port(),
    };
    judge(snapshot, destination, &attributes)?;
    let source = (client_ip != target.ip()).then_some(client_ip);
    Ok(Permit(ApplicationRoute { destination: Arc::clone(destination), target, source }))
}

/// Any DENY that matches denies; if any ALLOW is in force, one must match.
fn judge(snapshot: &Snapshot, workload: &Workload, attributes: &Attributes<'_>) -> Result<(), Refusal> {
    let sets = snapshot.policies_for(&workload.namespace).map(|set| set.of(false));
    if let Some(policy) = sets.clone().find_map(|set| set.deny.matching(attributes)) {
        return Err(Refusal::DeniedByPolicy(policy.clone()));
    }
    let mut allows_in_force = sets.clone().any(|set| !set.allow.is_empty());
    let mut allowed = sets.clone().any(|set| set.allow.matching(attributes).is_some());
    for policy in selected(snapshot, workload) {
        let policy = policy?;
        match policy.policy.action {
            _ if policy.policy.dry_run => {}
            Action::Deny if policy.matches(attributes) => {
                return Err(Refusal::DeniedByPolicy(policy.key.clone()));
            }
            Action::Deny => {}
            Action::Allow => {
                allows_in_force = true;
                allowed = allowed || policy.matches(attributes);
            }
        }
    }
    if allows_in_force && !allowed { Err(Refusal::NotAllowed) } else { Ok(()) }
}

/// The policies that the workload names. One that the state lacks may be a DENY: its absence refuses.
fn selected<'a>(
    snapshot: &'a Snapshot,
    workload: &'a Workload,
) -> impl Iterator<Item = Result<&'a Arc<Compiled>, Refusal>> {
    let keys = workload.authorization_policies.iter();
    keys.map(|key| snapshot.compiled(key).ok_or_else(|| Refusal::UnknownPolicy(key.clone())))
}

fn refuse_reserved(port: u16) -> Result<(), Refusal> {
    if RESERVED_PORTS.contains(&port) { Err(Refusal::ReservedPort(port)) } else { Ok(()) }
}
