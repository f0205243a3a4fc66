//! The way to an endpoint that has a host name and no address.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Route, holders, refuse_unreadable, to_workload};
use crate::{
    Refusal, Snapshot, Workload,
    balance::Reach,
    service::{Service, ServiceKey},
    workload::Protocol,
};

/// Complete once the host name has been looked up.
#[derive(Clone, Debug)]
pub struct NamedRoute {
    pub(super) endpoint: Arc<Workload>,
    pub(super) port: u16,
    pub(super) service: Option<Arc<Service>>,
    /// The address that the client asked for.
    pub(super) asked: IpAddr,
}

impl NamedRoute {
    pub fn hostname(&self) -> &str {
        &self.endpoint.hostname
    }

    pub fn destination(&self) -> &Arc<Workload> {
        &self.endpoint
    }

    pub fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    /// The addresses worth trying, in this order: those that the client and the service have the family of, the
    /// client's own family first, beginning anywhere.
    ///
    /// Who answers for a name is a stranger: an answer that would lead into the client's own pod is none.
    pub fn candidates(
        &self,
        source: &Workload,
        answer: &[IpAddr],
        dice: u64,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let client = Reach::of_client(source, self.asked);
        let usable = |ip: &IpAddr| {
            let own = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || source.has_ip(*ip);
            !own && client.admits(*ip) && self.service.as_ref().is_none_or(|service| service.admits(*ip))
        };
        let mut usable: Vec<IpAddr> = answer.iter().map(IpAddr::to_canonical).filter(usable).collect();
        if usable.is_empty() {
            return Err(Refusal::UnusableHostName(self.hostname().to_owned()));
        }
        let first = dice.checked_rem(usable.len() as u64).and_then(|first| usize::try_from(first).ok());
        usable.rotate_left(first.unwrap_or_default());
        usable.sort_by_key(|ip| ip.is_ipv4() != self.asked.is_ipv4());
        Ok(usable)
    }

    /// The way to one of the candidates. A name that leads to a workload of the mesh leads there as the mesh does. One
    /// that leads to a service leads nowhere: whoever is behind that address, the mesh would not know that it goes to them.
    pub fn at(&self, snapshot: &Snapshot, source: &Workload, ip: IpAddr) -> Result<Route, Refusal> {
        let (service, workload) = holders(snapshot, source, ip);
        if service.is_some_and(|found| !self.is_own_outside(snapshot, &found.key)) {
            return Err(Refusal::UnusableHostName(self.hostname().to_owned()));
        }
        if workload.is_none() {
            refuse_unreadable(snapshot, source, ip)?;
        }
        let destination = workload.unwrap_or(&self.endpoint);
        Ok(to_workload(
            snapshot,
            source,
            Arc::clone(destination),
            SocketAddr::new(ip, self.port),
            self.service.clone(),
        ))
    }

    /// A service of outsiders may have the addresses that they have themselves, or the block around them.
    fn is_own_outside(&self, snapshot: &Snapshot, found: &ServiceKey) -> bool {
        let is_own = self.service.as_ref().is_some_and(|service| service.key() == *found);
        is_own && snapshot.endpoints(found).all(|endpoint| endpoint.protocol != Protocol::Hbone)
    }
}
