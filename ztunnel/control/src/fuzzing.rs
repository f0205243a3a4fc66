//! Doors for the fuzz targets, to parsers that nobody else has business with. No part of what this crate offers.

use model::{NetworkAddress, TrustDomain, Workload, policy::Policy, service::Service};
use proto::discovery::Resource;

use crate::{
    xds::{Converter, Kind, Object},
    zds::{
        CniPod,
        request::{Request, answer_to},
    },
};

/// The pod that a packet of the CNI's agent adds, if it does, and the packet that says what is wrong with it.
pub fn zds_packet(packet: &[u8]) -> Result<Option<CniPod>, Vec<u8>> {
    let pod = Request::read(packet).and_then(|request| match request {
        Request::Add(_, pod) => pod.map(Some),
        Request::Keep(_) | Request::Remove(_) | Request::Complete => Ok(None),
    });
    pod.map_err(|error| answer_to(Err(error)))
}

/// What a resource of the control plane became.
pub enum Converted {
    Workload(Workload),
    /// With what is wrong with it.
    Service(Service, Option<String>),
    Policy(Policy, Option<String>),
    /// Its addresses, and what is wrong with it.
    Unreadable(Vec<NetworkAddress>, String),
}

/// A resource of the type that it names; an error for one of another.
pub fn xds_resource(resource: &Resource, trust_domain: &TrustDomain) -> Result<Converted, String> {
    let type_url = resource.resource.as_ref().map(|any| any.type_url.as_str()).unwrap_or_default();
    let kind = Kind::of(type_url).ok_or("of no type that is subscribed to")?;
    Ok(match Converter::new(trust_domain.clone(), None).convert(kind, resource) {
        Object::Workload(workload) => Converted::Workload(workload),
        Object::Service(service, flaw) => Converted::Service(service, flaw),
        Object::Policy(policy, flaw) => Converted::Policy(policy, flaw),
        Object::Unreadable(addresses, flaw) => Converted::Unreadable(addresses, flaw),
    })
}
