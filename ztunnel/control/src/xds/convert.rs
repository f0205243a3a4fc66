//! From the control plane's resources to the model's objects. What the file may not say, it may not either
//! ([`crate::sound`]).
//!
//! Of workloads and services a part that cannot be read makes the whole unusable; what is left refuses who asks for its
//! addresses. A policy stands with that part in the sense that lets in the fewest: leaving one out may let in
//! whom it keeps out.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{NetworkAddress, TrustDomain, Workload, policy::Policy, service::Service, texts::Texts};
use proto::{
    discovery::Resource,
    prost::Message,
    security::Authorization,
    workload::{Address, address::Type},
};

use super::kind::Kind;

mod policy;
mod service;
mod unknown;
mod unreadable;
mod waypoint;
mod workload;

pub(super) use policy::key as policy_key;

pub(crate) struct Converter {
    trust_domain: TrustDomain,
    /// Whose policies apply to all namespaces, if we have been told.
    root_namespace: Option<String>,
    texts: Texts,
}

pub(crate) enum Object {
    Workload(Workload),
    /// With what is wrong with it, if anything is.
    Service(Service, Option<String>),
    Policy(Policy, Option<String>),
    /// A workload, or a service, of which nothing but these addresses can be used, and why.
    Unreadable(Vec<NetworkAddress>, String),
}

impl Converter {
    pub(crate) fn new(trust_domain: TrustDomain, root_namespace: Option<String>) -> Self {
        Self { trust_domain, root_namespace, texts: Texts::default() }
    }

    /// Whatever is wrong with it, something of it is to be in force.
    pub(crate) fn convert(&mut self, kind: Kind, resource: &Resource) -> Object {
        match (self.read(kind, resource), kind) {
            // Whatever is wrong with it: left out, it would let in whom it keeps out.
            (Err(flaw), Kind::Authorization) => {
                let policy = policy::unreadable(&resource.name, self.root_namespace.as_deref());
                Object::Policy(policy, Some(flaw))
            }
            (Err(flaw), Kind::Address) => Object::Unreadable(unreadable::addresses(resource), flaw),
            (Ok(object), _) => object,
        }
    }

    fn read(&mut self, kind: Kind, resource: &Resource) -> Result<Object, String> {
        let any = resource.resource.as_ref().ok_or("it holds nothing")?;
        if any.type_url != kind.type_url() {
            return Err(format!("expected the type {}, found `{}`", kind.type_url(), any.type_url));
        }
        let undecodable = |error: proto::prost::DecodeError| format!("not of its type: {error}");
        let object = match kind {
            Kind::Address => {
                let address = Address::decode(any.value.clone()).map_err(undecodable)?;
                match address.r#type.ok_or("neither a workload nor a service")? {
                    Type::Workload(workload) => Object::Workload(self.workload(workload)?),
                    Type::Service(service) => self.service_or_rest(service)?,
                }
            }
            Kind::Authorization => {
                let told = Authorization::decode(any.value.clone()).map_err(undecodable)?;
                let (mut policy, flaw) = policy::policy(told, self.root_namespace.as_deref());
                let unknown = unknown::mark(&mut policy, &any.value)
                    .map_err(|unknown::Unwalkable| "not of its type: it has groups".to_owned())?;
                Object::Policy(policy, flaw.or(unknown))
            }
        };
        let Some(name) = object.name() else { return Ok(object) };
        if name == resource.name { Ok(object) } else { Err(format!("it says of itself that it is `{name}`")) }
    }
}

impl Object {
    /// As it says itself.
    fn name(&self) -> Option<String> {
        match self {
            Self::Workload(workload) => Some(workload.uid.to_string()),
            Self::Service(service, _) => Some(service.key().to_string()),
            Self::Policy(policy, _) => Some(policy.key().to_string()),
            Self::Unreadable(..) => None,
        }
    }
}

/// A value of tomorrow is not taken for the default.
fn known<T: TryFrom<i32>>(what: &str, told: i32) -> Result<T, String> {
    T::try_from(told).map_err(|_| format!("unknown {what} {told}"))
}

/// 4 or 16 bytes. An IPv4 address in IPv6 clothes is the IPv4 address: look-ups know only that.
fn ip(bytes: &[u8]) -> Result<IpAddr, String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::from(octets).to_canonical()))
        .map_err(|_| format!("expected an address of 4 or 16 bytes, found {}", bytes.len()))
}

/// Of IPv4 addresses in IPv6 clothes, the IPv4 block; one that has others besides is none that could be looked up.
fn block(bytes: &[u8], length: u32) -> Result<IpNet, String> {
    let ip = ip(bytes)?;
    let clothes = if ip.is_ipv4() && bytes.len() == 16 { 96 } else { 0 };
    let own = length.checked_sub(clothes).and_then(|length| u8::try_from(length).ok());
    let block = own.and_then(|length| IpNet::new(ip, length).ok());
    block.ok_or_else(|| format!("{ip} is no block of length {length}"))
}

fn port(number: u32) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("expected ports up to 65535, found {number}"))
}
