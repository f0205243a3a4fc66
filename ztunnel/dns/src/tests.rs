//! What is answered, to whom, and how long it may be.

use std::{net::IpAddr, str::FromStr};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use model::{
    Network, Snapshot, SpiffeId, Workload, WorkloadUid,
    service::{HealthPolicy, LoadBalancer, Mode, Service, Visibility},
    workload::Health,
};

use crate::{Answer, Malformed, Query, Transport, View, answer};

mod hostile;
mod services;

pub(crate) const TCP: View<'_> = View { cluster_domain: "cluster.local", transport: Transport::Tcp, dice: 0 };
pub(crate) const UDP: View<'_> = View { transport: Transport::Udp, ..TCP };

pub(crate) fn request(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_str(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Question::query(name, kind));
    message
}

/// What `client` is told; `None` if it is for others to say.
pub(crate) fn ask(snapshot: &Snapshot, client: &str, message: &Message, view: &View<'_>) -> Option<Message> {
    let bytes = message.to_vec().unwrap();
    let query = Query::parse(&bytes).unwrap();
    let client = snapshot.workload(&WorkloadUid::new(client)).unwrap();
    match answer(snapshot, client, &query, view) {
        Answer::Forward => None,
        Answer::Reply(bytes) => {
            assert!(bytes.len() <= query.room(view.transport));
            Some(Message::from_vec(&bytes).unwrap())
        }
    }
}

/// The addresses of a name, to a client of the namespace `shop`.
pub(crate) fn addresses(snapshot: &Snapshot, name: &str, kind: RecordType) -> Option<Vec<IpAddr>> {
    let told = ask(snapshot, "client", &request(name, kind), &TCP)?;
    assert_eq!(told.metadata.response_code, ResponseCode::NoError);
    let mut all: Vec<IpAddr> = told.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    assert_eq!(all.len(), told.answers.len());
    all.sort();
    Some(all)
}

pub(crate) fn ips(text: &[&str]) -> Option<Vec<IpAddr>> {
    Some(text.iter().map(|ip| ip.parse().unwrap()).collect())
}

pub(crate) fn workload(uid: &str, namespace: &str, ips: &[&str], services: &[&str]) -> Workload {
    let identity: SpiffeId = format!("spiffe://td/ns/{namespace}/sa/x").parse().unwrap();
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    let mut workload = Workload::new(WorkloadUid::new(uid), uid, identity, ips);
    workload.services = services.iter().map(|key| (key.parse().unwrap(), Default::default())).collect();
    workload
}

pub(crate) fn service(key: &str, vips: &[&str]) -> Service {
    let (namespace, hostname) = key.split_once('/').unwrap();
    let mut service = Service::new(namespace, hostname);
    service.vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
    service.ports = [(80, 8080), (443, 8443)].into();
    service.port_names = [("http".to_owned(), 80)].into();
    service
}

/// A client in the namespace `shop`, a service there, and whatever a test adds.
pub(crate) fn mesh(services: Vec<Service>, workloads: Vec<Workload>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.insert_workload(workload("client", "shop", &["10.0.0.9"], &[]));
    snapshot.insert_service(service("shop/web.shop.svc.cluster.local", &["/10.96.0.1", "/fd96::1"]));
    services.into_iter().for_each(|service| snapshot.insert_service(service));
    workloads.into_iter().for_each(|workload| snapshot.insert_workload(workload));
    snapshot
}

/// Catches: a name that is answered under another spelling, or that a resolver rejects for not being what it asked
/// (letters in random case are a defence against guessers).
#[test]
fn the_question_comes_back_as_it_was_asked() {
    let asked = request("wEb.ShOp.sVc.cluster.LOCAL", RecordType::A);
    let told = ask(&mesh(vec![], vec![]), "client", &asked, &UDP).unwrap();
    assert!(told.queries[0].name.eq_case(&asked.queries[0].name));
    assert!(told.answers[0].name.eq_case(&asked.queries[0].name));
    let metadata = told.metadata;
    assert_eq!((metadata.id, metadata.message_type), (0x1234, MessageType::Response));
    assert!(metadata.authoritative && metadata.recursion_desired && metadata.recursion_available);
    assert!(told.edns.is_none(), "extensions that nobody asked for");
}

/// Catches: an answer that a small buffer cuts off without a word, and a client that never asks over TCP.
#[test]
fn what_has_no_room_says_so() {
    let many: Vec<_> = (0..150)
        .map(|n| workload(&format!("w{n}"), "shop", &[&format!("10.1.0.{n}")], &["shop/many.example"]))
        .collect();
    let snapshot = mesh(vec![service("shop/many.example", &[])], many);
    let mut asked = request("many.example", RecordType::A);
    let told = |asked: &Message, view| ask(&snapshot, "client", asked, view).unwrap();
    let small = told(&asked, &UDP);
    assert!(small.metadata.truncation && (20..40).contains(&small.answers.len()), "{}", small.answers.len());
    let whole = told(&asked, &TCP);
    assert!(!whole.metadata.truncation && whole.answers.len() == 150);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    asked.set_edns(edns.clone());
    let larger = told(&asked, &UDP);
    assert!(
        larger.metadata.truncation && (60..80).contains(&larger.answers.len()),
        "{}",
        larger.answers.len()
    );
    assert!(larger.edns.is_some(), "whoever speaks of extensions hears of ours");
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let largest = told(&asked, &UDP);
    assert!(!largest.metadata.truncation, "{} of 150", largest.answers.len());
}

/// Catches: one endpoint of a headless service that gets all the connections.
#[test]
fn the_list_begins_anywhere() {
    let many: Vec<_> = (0..4)
        .map(|n| workload(&format!("w{n}"), "shop", &[&format!("10.1.0.{n}")], &["shop/many.example"]))
        .collect();
    let snapshot = mesh(vec![service("shop/many.example", &[])], many);
    let first = |dice| {
        let told = ask(&snapshot, "client", &request("many.example", RecordType::A), &View { dice, ..UDP });
        told.unwrap().answers[0].data.ip_addr().unwrap()
    };
    let firsts: std::collections::BTreeSet<_> = (0..4).map(first).collect();
    assert_eq!(firsts.len(), 4);
}

/// Catches: an answer to a version of the extensions that we do not know.
#[test]
fn unknown_extensions_are_refused() {
    let mut asked = request("web.shop.svc.cluster.local", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    asked.set_edns(edns);
    let told = ask(&mesh(vec![], vec![]), "client", &asked, &UDP).unwrap();
    assert_eq!(u16::from(told.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert!(told.answers.is_empty() && told.edns.unwrap().version() == 0);
}

/// Catches: what state knows nothing about, answered all the same; a transfer begun that cannot be ended.
#[test]
fn what_is_not_for_us_goes_on() {
    let snapshot = mesh(vec![], vec![]);
    for kind in [RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::PTR, RecordType::ANY] {
        assert!(
            ask(&snapshot, "client", &request("web.shop.svc.cluster.local", kind), &UDP).is_none(),
            "{kind}"
        );
    }
    for name in ["example.org", "other.shop.svc.cluster.local", ".", "shop.svc.cluster.local"] {
        assert!(ask(&snapshot, "client", &request(name, RecordType::A), &UDP).is_none(), "{name}");
    }
    let mut chaos = request("web.shop.svc.cluster.local", RecordType::A);
    chaos.queries[0].query_class = DNSClass::CH;
    assert!(ask(&snapshot, "client", &chaos, &UDP).is_none());
    let mut update = request("web.shop.svc.cluster.local", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert!(ask(&snapshot, "client", &update, &UDP).is_none());
    let told = ask(&snapshot, "client", &request("example.org", RecordType::AXFR), &TCP).unwrap();
    assert_eq!(told.metadata.response_code, ResponseCode::NotImp);
}

/// Catches: an answer to an answer, which two servers could keep up forever; a request that is not told why it failed.
#[test]
fn what_is_no_request_is_refused_or_left_alone() {
    let good = request("web", RecordType::A).to_vec().unwrap();
    assert_eq!(Query::parse(&[]).unwrap_err(), Malformed::Unanswerable);
    assert_eq!(Query::parse(&good[..11]).unwrap_err(), Malformed::Unanswerable);
    let mut is_answer = good.clone();
    is_answer[2] |= 0x80;
    assert_eq!(Query::parse(&is_answer).unwrap_err(), Malformed::Unanswerable);
    let mut twice = good.clone();
    twice[5] = 2;
    let mut loops = good.clone();
    loops[12..14].copy_from_slice(&[0xc0, 12]);
    let long = [good.clone(), vec![0; crate::MAX_QUERY]].concat();
    for bad in [&good[..12], &good[..16], &twice, &loops, &long] {
        let Err(Malformed::Refused(told)) = Query::parse(bad) else { panic!("{bad:?} is refused") };
        let told = Message::from_vec(&told).unwrap();
        assert_eq!((told.metadata.id, told.metadata.response_code), (0x1234, ResponseCode::FormErr));
    }
}
