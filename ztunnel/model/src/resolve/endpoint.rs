//! Which endpoint of a service a connection goes to, and where that is.

use std::{net::SocketAddr, sync::Arc};

use super::{Pick, Resolver};
use crate::{
    Refusal, Workload,
    balance::{Address, Nobody, Question},
    service::Service,
    snapshot::KnownService,
    workload::PortMap,
};

/// `asked` is the service's address and port.
pub(super) fn choose_endpoint(
    resolver: &Resolver<'_>,
    known: &KnownService,
    asked: SocketAddr,
) -> Result<(Arc<Workload>, Address, Pick), Refusal> {
    let Resolver { snapshot, source: client, choice } = *resolver;
    let port = (known.key.clone(), asked.port());
    let set_aside = choice.outliers.map(|(outliers, now)| outliers.set_aside(&port, now)).unwrap_or_default();
    let question = Question { client, asked, dice: choice.dice, tried: choice.tried, set_aside: &set_aside };
    let chosen = known.balance.choose(&known.service, &question, |uid| snapshot.workload(uid));
    let (endpoint, alternatives) = chosen.map_err(|nobody| refusal(nobody, known))?;
    // A waypoint's service need not list the port that the waypoint was given with.
    let own = endpoint.services.get(&known.key);
    let target_port = own.and_then(|own| target_port(&known.service, own, asked.port()));
    let target_port = target_port.unwrap_or(asked.port());
    let address = Address::of(&known.service, &endpoint, asked.ip(), target_port);
    let address = address.ok_or_else(|| refusal(Nobody::NoEndpoint, known))?;
    let pick = Pick { service: port, endpoint: endpoint.uid.clone(), alternatives };
    Ok((endpoint, address, pick))
}

/// Where an endpoint serves `port`. `own` is what it says of this service; it goes before what the service says.
pub fn target_port(service: &Service, own: &PortMap, port: u16) -> Option<u16> {
    own.get(&port).or_else(|| service.ports.get(&port)).copied().filter(|&target| target != 0)
}

/// All of them.
pub(crate) fn target_ports<'a>(service: &'a Service, own: &'a PortMap) -> impl Iterator<Item = u16> + 'a {
    service.ports.keys().filter_map(|&port| target_port(service, own, port))
}

fn refusal(nobody: Nobody, known: &KnownService) -> Refusal {
    let key = known.key.clone();
    match nobody {
        Nobody::NoEndpoint => Refusal::NoHealthyEndpoint(key),
        Nobody::OutOfScope => Refusal::NoEndpointInScope(key),
        Nobody::OtherNetwork => Refusal::OtherNetwork(key.to_string()),
    }
}
