//! Somebody whose connections no proxy of the mesh takes: they leave in plaintext and arrive without an identity.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Explanation, MAX_ENDPOINTS, Mesh, address_of, inbound};
use crate::{
    NetworkAddress, Refusal, Snapshot, Workload, WorkloadUid, resolve::target_port, service::Service,
};

#[derive(Clone, Debug)]
pub(super) enum Outsider<'a> {
    /// The mesh knows it, and why its connections are not taken.
    Known(&'a Arc<Workload>, String),
    /// An address that is no workload's.
    Stranger(IpAddr),
}

/// Where a connection arrives.
struct Way<'a> {
    service: Option<&'a Arc<Service>>,
    workload: &'a Arc<Workload>,
    at: SocketAddr,
}

/// One explanation for each workload that the connection may arrive at.
pub(super) fn explain(mesh: Mesh<'_>, outsider: &Outsider<'_>, asked: SocketAddr) -> Vec<Explanation> {
    let snapshot = mesh.snapshot;
    let asked = SocketAddr::new(asked.ip().to_canonical(), asked.port());
    if let Some(service) = outsider.service_at(snapshot, asked.ip()) {
        let ways = through(snapshot, service, asked);
        if ways.is_empty() {
            let nobody = Refusal::NoHealthyEndpoint(service.key());
            return vec![outsider.begin().refuse("destination", &nobody)];
        }
        return ways.into_iter().map(|way| one(mesh, outsider, asked, &way)).collect();
    }
    let holders = snapshot.workloads().filter(|workload| outsider.may_mean(workload, asked.ip()));
    let ways = holders.take(MAX_ENDPOINTS).map(|workload| Way { service: None, workload, at: asked });
    let told: Vec<_> = ways.map(|way| one(mesh, outsider, asked, &way)).collect();
    if told.is_empty() { vec![beyond(outsider, asked)] } else { told }
}

/// The cluster's own load balancing leads to any endpoint that is well.
fn through<'a>(snapshot: &'a Snapshot, service: &'a Arc<Service>, asked: SocketAddr) -> Vec<Way<'a>> {
    let key = service.key();
    let way = |workload: &'a Arc<Workload>| {
        let port = target_port(service, workload.services.get(&key)?, asked.port())?;
        let admitted = workload.workload_ips.iter().copied().filter(|&ip| service.admits(ip));
        let ip = admitted.into_iter().find(|ip| ip.is_ipv4() == asked.is_ipv4())?;
        Some(Way { service: Some(service), workload, at: SocketAddr::new(ip, port) })
    };
    let well = snapshot.endpoints(&key).filter(|endpoint| service.wants(endpoint));
    well.filter_map(way).take(MAX_ENDPOINTS).collect()
}

fn one(mesh: Mesh<'_>, outsider: &Outsider<'_>, asked: SocketAddr, way: &Way<'_>) -> Explanation {
    let mut told = outsider.begin();
    let service = way.service.map(|service| format!("service {}, ", service.key())).unwrap_or_default();
    let at = if way.at == asked { String::new() } else { format!(" at {}", way.at) };
    told.say("destination", format!("{asked} is {service}{}{at}", way.workload.uid));
    told.destination = Some(way.workload.uid.clone());
    if outsider.uid() == Some(&way.workload.uid) {
        told.mutual_tls = None;
        told.say("path", "the pod reaches itself; nothing leaves it".to_owned());
        return told;
    }
    told.say("path", "plaintext".to_owned());
    if !inbound::is_served(way.workload) {
        told.say("destination's node", "no proxy of the mesh decides there".to_owned());
        return told;
    }
    inbound::explain(mesh, told, way.workload, None, outsider.address(way.at), way.at)
}

fn beyond(outsider: &Outsider<'_>, asked: SocketAddr) -> Explanation {
    let mut told = outsider.begin();
    told.say("destination", format!("{asked} is no workload's address; the mesh takes no part"));
    told
}

impl Outsider<'_> {
    fn begin(&self) -> Explanation {
        let mut told =
            Explanation { mutual_tls: Some(false), source: self.uid().cloned(), ..Explanation::default() };
        let says = match self {
            Self::Known(workload, why) => format!("{}, without an identity: {why}", workload.uid),
            Self::Stranger(ip) => format!("{ip}, no workload of the mesh, so without an identity"),
        };
        told.say("source", says);
        told
    }

    fn uid(&self) -> Option<&WorkloadUid> {
        match self {
            Self::Known(workload, _) => Some(&workload.uid),
            Self::Stranger(_) => None,
        }
    }

    fn address(&self, like: SocketAddr) -> SocketAddr {
        match self {
            Self::Known(workload, _) => address_of(workload, like),
            Self::Stranger(ip) => SocketAddr::new(*ip, 0),
        }
    }

    /// Nobody knows in whose network a stranger is: any that has the address.
    fn service_at<'a>(&self, snapshot: &'a Snapshot, ip: IpAddr) -> Option<&'a Arc<Service>> {
        match self {
            Self::Known(workload, _) => {
                let address = NetworkAddress { network: workload.network.clone(), ip };
                snapshot.service_at(&address, &workload.namespace)
            }
            Self::Stranger(_) => snapshot
                .services()
                .find(|service| service.vips.iter().any(|vip| vip.is_exact() && vip.block().addr() == ip)),
        }
    }

    fn may_mean(&self, workload: &Workload, ip: IpAddr) -> bool {
        let is_near = match self {
            Self::Known(own, _) => own.network == workload.network,
            Self::Stranger(_) => true,
        };
        is_near && workload.has_ip(ip)
    }
}
