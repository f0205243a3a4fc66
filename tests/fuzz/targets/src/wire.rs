//! Messages of the control plane and of the CNI's agent.

use std::{net::SocketAddr, sync::Arc};

use control::fuzzing::{Converted, xds_resource, zds_packet};
use model::{
    ClientAddr, NetworkAddress, OriginalDst, Refusal, Snapshot, SpiffeId, TrustDomain, Workload, WorkloadUid,
    authorize::{InboundFacts, authorize_inbound},
    policy::{Action, Policy},
    resolve::{Choice, resolve},
    service::Service,
};
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::{Any, Resource},
    prost::Message,
    security::Authorization,
    workload::{Address, address::Type, zds::WorkloadResponse},
};

/// A pod that is added is named in full; what is refused is told in one packet that the agent can read.
pub fn zds_packet_of_agent(data: &[u8]) {
    match zds_packet(data) {
        Ok(Some(pod)) => {
            let named = [&pod.uid, &pod.name, &pod.namespace];
            assert!(named.iter().all(|name| !name.is_empty()), "{named:?}");
        }
        Ok(None) => {}
        Err(answer) => {
            assert!(answer.len() <= 1024, "an answer of {} bytes", answer.len());
            let answer = WorkloadResponse::decode(answer.as_slice()).expect("an answer");
            assert!(answer.payload.is_some(), "an answer that says nothing");
        }
    }
}

/// Workloads and services: what is taken is called what it says, and any state with it can be asked.
pub fn xds_address(data: &[u8]) {
    let name = match Address::decode(data).ok().and_then(|address| address.r#type) {
        Some(Type::Workload(workload)) => workload.uid,
        Some(Type::Service(service)) => format!("{}/{}", service.namespace, service.hostname),
        None => String::new(),
    };
    let mut snapshot = Snapshot::default();
    match xds_resource(&resource(ADDRESS_TYPE, &name, data), &trust_domain()) {
        Ok(Converted::Workload(workload)) => {
            check_workload(&workload, &name);
            snapshot.insert_workload(workload);
        }
        Ok(Converted::Service(service, flaw)) => {
            check_service(&service, &name);
            assert!(flaw.is_none() || service.ports.is_empty(), "{flaw:?}, and it serves");
            snapshot.insert_service(service);
        }
        Ok(Converted::Policy(..)) => panic!("an address is taken for a policy"),
        Ok(Converted::Unreadable(addresses, flaw)) => {
            assert!(!flaw.is_empty(), "refused for nothing");
            snapshot.close(&name, &addresses);
            addresses.iter().for_each(|address| check_closed(&snapshot, address));
        }
        Err(why) => return assert!(!why.is_empty(), "refused for nothing"),
    }
    ask(&snapshot);
}

fn check_workload(workload: &Workload, name: &str) {
    assert_eq!(workload.uid.as_str(), name);
    assert_eq!(workload.identity.namespace(), &*workload.namespace, "it is of another namespace");
    assert!(workload.services.values().all(|ports| ports.iter().all(|(&from, &to)| from != 0 && to != 0)));
}

fn check_service(service: &Service, name: &str) {
    assert_eq!(service.key().to_string(), name);
    assert!(!service.ports.contains_key(&0), "{:?}", service.ports);
}

/// Nobody knows who is there, so nobody is sent there.
fn check_closed(snapshot: &Snapshot, address: &NetworkAddress) {
    let mut client = (*workload("client")).clone();
    client.network = address.network.clone();
    let asked = OriginalDst(SocketAddr::new(address.ip, 80));
    let resolved = resolve(snapshot, &client, asked, &Choice::of(3));
    assert!(matches!(resolved, Err(Refusal::Unreadable(_))), "{address}: {resolved:?}");
}

/// A way to every address that there is, and into every workload.
fn ask(snapshot: &Snapshot) {
    let client = workload("client");
    let workloads = snapshot.workloads().flat_map(|workload| workload.workload_ips.clone());
    let vips = snapshot.services().flat_map(|service| service.vips.clone()).map(|vip| vip.block().addr());
    for ip in workloads.chain(vips).collect::<Vec<_>>() {
        for port in [0, 80, 15008] {
            let _ = resolve(snapshot, &client, OriginalDst(SocketAddr::new(ip, port)), &Choice::of(3));
        }
    }
}

/// Policies: what cannot be read of one lets nobody in.
pub fn xds_policy(data: &[u8]) {
    let told = Authorization::decode(data).ok();
    let name = told.as_ref().map(|told| format!("{}/{}", told.namespace, told.name));
    let name = name.unwrap_or_else(|| "a/p".to_owned());
    match xds_resource(&resource(AUTHORIZATION_TYPE, &name, data), &trust_domain()) {
        Ok(Converted::Policy(policy, flaw)) => check_policy(policy, flaw.as_deref(), told.is_some()),
        Ok(_) => panic!("a policy is taken for an address"),
        Err(why) => assert!(!why.is_empty(), "refused for nothing"),
    }
}

fn check_policy(policy: Policy, flaw: Option<&str>, decodes: bool) {
    // Of where it applies, and not of whom it means.
    let concerns_scope = flaw.is_some_and(|flaw| flaw.starts_with("its name"));
    let lets_nobody_in = !decodes
        || (flaw.is_some() && !concerns_scope && policy.action == Action::Allow && policy.rules.len() <= 1);
    let is_dry_run = policy.dry_run;
    let mut server = Workload::clone(&workload("server"));
    server.authorization_policies = vec![policy.key()];
    let mut snapshot = Snapshot::default();
    snapshot.insert_policy(policy);
    let server = Arc::new(server);
    for peer in
        [None, Some("spiffe://cluster.local/ns/a/sa/client"), Some("spiffe://cluster.local/ns/b/sa/x")]
    {
        let peer: Option<SpiffeId> = peer.map(|peer| peer.parse().expect("an id"));
        let facts = InboundFacts {
            client: ClientAddr("10.0.0.1:4000".parse().expect("an address")),
            peer: peer.as_ref(),
            target: "10.0.0.2:80".parse().expect("an address"),
            mtls: None,
        };
        let allowed = authorize_inbound(&snapshot, &server, &facts).decision.is_ok();
        assert!(!(allowed && lets_nobody_in && !is_dry_run), "{flaw:?} lets {peer:?} in");
    }
}

fn workload(name: &str) -> Arc<Workload> {
    let identity = format!("spiffe://cluster.local/ns/a/sa/{name}").parse().expect("an id");
    let ip = if name == "client" { "10.0.0.1" } else { "10.0.0.2" };
    let ips = vec![ip.parse().expect("an address")];
    Arc::new(Workload::new(WorkloadUid::new(name), name, identity, ips))
}

fn resource(type_url: &str, name: &str, value: &[u8]) -> Resource {
    let any = Any { type_url: type_url.to_owned(), value: value.to_vec().into() };
    Resource { name: name.to_owned(), resource: Some(any), ..Resource::default() }
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().expect("a trust domain")
}
