//! Who talks to whom: the same filters and the same spelling for connections and refusals.

use std::net::{IpAddr, SocketAddr};

use model::{NetworkAddress, Role, Snapshot, WorkloadUid};
use telemetry::LiveParty;

use super::super::request::Request;

/// The two ends, and the service that was asked for.
pub(super) struct Ends<'a> {
    pub(super) local: &'a WorkloadUid,
    pub(super) source: &'a LiveParty,
    pub(super) destination: &'a LiveParty,
    pub(super) service: Option<&'a str>,
}

impl Ends<'_> {
    /// A filter holds if it does for either end.
    pub(super) fn are_wanted(&self, request: &Request) -> bool {
        let any = |is_it: &dyn Fn(&LiveParty) -> bool| is_it(self.source) || is_it(self.destination);
        request.matches(&[
            ("namespace", &|namespace| any(&|party| party.namespace.as_deref() == Some(namespace))),
            ("node", &|node| any(&|party| party.node.as_deref() == Some(node))),
            ("name", &|name| {
                any(&|party| party.name.as_ref().is_some_and(|own| own.contains(name)))
                    || self.service.is_some_and(|service| service.contains(name))
                    || self.local.as_str().contains(name)
            }),
        ])
    }
}

/// `namespace/name`, or what else is known.
pub(super) fn name(party: &LiveParty, address: Option<SocketAddr>) -> String {
    match (&party.namespace, &party.name, &party.identity) {
        (Some(namespace), Some(name), _) => format!("{namespace}/{name}"),
        (_, _, Some(identity)) => identity.principal().to_owned(),
        _ => address.map(|address| address.ip().to_string()).unwrap_or_default(),
    }
}

pub(super) fn name_and_port(party: &LiveParty, address: SocketAddr) -> String {
    match party.name {
        Some(_) => format!("{}:{}", name(party, None), address.port()),
        None => address.to_string(),
    }
}

pub(super) fn direction(role: Role) -> &'static str {
    match role {
        Role::Outbound => "outbound",
        Role::InboundPlaintext | Role::InboundHbone => "inbound",
    }
}

/// The workload at an address, as `local` sees it.
pub(super) fn at(snapshot: &Snapshot, local: &WorkloadUid, ip: IpAddr) -> LiveParty {
    let network = snapshot.workload(local).map(|workload| workload.network.clone()).unwrap_or_default();
    let found = snapshot.workload_at(&NetworkAddress { network, ip: ip.to_canonical() });
    found.map_or_else(LiveParty::default, |workload| of(snapshot, &workload.uid))
}

pub(super) fn of(snapshot: &Snapshot, uid: &WorkloadUid) -> LiveParty {
    let workload = snapshot.workload(uid);
    LiveParty {
        workload: Some(uid.clone()),
        namespace: workload.map(|workload| workload.namespace.clone()),
        name: workload.map(|workload| workload.name.clone()),
        node: workload.map(|workload| workload.node.clone()),
        identity: None,
    }
}
