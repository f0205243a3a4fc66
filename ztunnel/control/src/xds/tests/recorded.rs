//! Against the recording of Istio's ztunnel (`tests/fixtures/istio`): where we say the same, and where we mean to differ.

use std::collections::HashMap;

use model::Snapshot;
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    prost::Message,
};

use super::resources::trust_domain;
use crate::xds::{ProxyNode, holding::Holding, protocol::Protocol};

const EVERYTHING: &str = include_str!("../../../tests/fixtures/istio/xds.txt");
const ON_DEMAND: &str = include_str!("../../../tests/fixtures/istio/xds-ondemand.txt");

struct Recording {
    requests: Vec<DeltaDiscoveryRequest>,
    responses: Vec<DeltaDiscoveryResponse>,
}

fn recording(text: &str) -> Recording {
    let mut recording = Recording { requests: Vec::new(), responses: Vec::new() };
    let mut is_request = false;
    for line in text.lines() {
        if line.contains("# request on") || line.contains("our message:") {
            is_request = line.contains("# request on");
        }
        let Some(hex) = line.trim().strip_prefix("protobuf hex ") else { continue };
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        if is_request {
            recording.requests.push(DeltaDiscoveryRequest::decode(&bytes[..]).unwrap());
        } else {
            recording.responses.push(DeltaDiscoveryResponse::decode(&bytes[..]).unwrap());
        }
    }
    recording
}

/// With the environment that the recorded proxy had.
fn protocol(on_demand: bool) -> Protocol {
    let captures = if on_demand { "false" } else { "true" };
    let metadata = [
        ("DNS_CAPTURE", serde_json::json!(captures)),
        ("FOO", serde_json::json!("bar")),
        ("LABELS", serde_json::json!({"app": "ztunnel"})),
    ];
    let node = ProxyNode {
        pod: "ztunnel-abcde".to_owned(),
        namespace: "istio-system".to_owned(),
        ip: "192.0.2.10".to_owned(),
        node_name: "node3".to_owned(),
        cluster_domain: String::new(),
        metadata: metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    Protocol::new(node.told(), on_demand, Holding::new(trust_domain(), None))
}

/// Would break if the node, its metadata or the subscriptions were others than a control plane of Istio expects.
#[test]
fn the_first_requests_are_those_of_istio() {
    for (text, on_demand) in [(EVERYTHING, false), (ON_DEMAND, true)] {
        assert_eq!(protocol(on_demand).open()[..], recording(text).requests[..2]);
    }
}

/// Each response of the recording is acknowledged or refused as there, but for what we find wrong and they do not: a
/// block of 77 bits, which they drop, and a type that nobody asked for.
#[test]
fn responses_are_answered_like_istio_answers_them() {
    for (text, on_demand) in [(EVERYTHING, false), (ON_DEMAND, true)] {
        let Recording { requests, responses } = recording(text);
        assert!(responses.len() >= 3, "the fixture was read");
        let replies: HashMap<_, _> = requests.iter().map(|reply| (&reply.response_nonce, reply)).collect();
        let (mut protocol, mut snapshot) = (protocol(on_demand), Snapshot::default());
        for response in &responses {
            let mut ours = protocol.receive(response, &mut snapshot).reply.unwrap();
            let mut theirs = replies[&response.nonce].clone();
            let refused = |reply: &mut DeltaDiscoveryRequest| {
                let told = reply.error_detail.take()?;
                Some(told.message.split(':').next().unwrap_or_default().to_owned())
            };
            let (our_refusal, their_refusal) = (refused(&mut ours), refused(&mut theirs));
            assert_eq!(ours, theirs, "{}", response.nonce);
            match &*response.nonce {
                "n-6" if !on_demand => assert_eq!(our_refusal.unwrap(), "default/bad"),
                "n-7" if !on_demand => assert_eq!(our_refusal.unwrap(), "this type was not asked for"),
                nonce => assert_eq!(our_refusal, their_refusal, "{nonce}: the same resource is named"),
            }
        }
    }
}

/// Would break if a new stream did not say what is known from the one before.
#[test]
fn a_new_stream_begins_like_istio_begins_it() {
    let Recording { requests, responses } = recording(EVERYTHING);
    let (mut protocol, mut snapshot) = (protocol(false), Snapshot::default());
    for response in &responses {
        protocol.receive(response, &mut snapshot);
    }
    let is_reopened = |request: &&DeltaDiscoveryRequest| !request.initial_resource_versions.is_empty();
    let mut theirs: Vec<_> = requests.iter().filter(is_reopened).take(2).cloned().collect();
    // Under no version: what is in force for it is not what was sent.
    assert_eq!(theirs[1].initial_resource_versions.insert("default/bad".into(), "".into()).unwrap(), "6");
    assert_eq!(protocol.open(), theirs);
}

/// On demand, with all names that were ever asked for.
#[test]
fn names_are_asked_for_like_istio_asks_for_them() {
    let Recording { requests, .. } = recording(ON_DEMAND);
    let mut protocol = protocol(true);
    let ours = protocol.subscribe(["/10.1.1.77".to_owned()], []).remove(0);
    assert!(requests.contains(&ours));
    assert_eq!(protocol.open()[0].resource_names_subscribe, ["*", "/10.1.1.77"]);
    assert_eq!(protocol.open()[0].resource_names_unsubscribe, ["*"]);
}

/// Would break if a pod that asks for many long names made requests that a control plane refuses, now or when it reconnects.
#[test]
fn however_many_names_are_asked_for_each_request_is_one_that_grpc_servers_take() {
    let mut protocol = protocol(true);
    let names: Vec<_> = (0..20_000).map(|number| format!("default/{number:0>240}")).collect();
    let later = protocol.subscribe(names.clone(), names[..10].to_vec());
    assert_eq!(protocol.subscribe(names.clone(), []).len(), later.len());
    for requests in [later, protocol.open()] {
        assert!(requests.iter().all(|request| request.encoded_len() < 4 << 20));
        let asked = requests.iter().flat_map(|request| &request.resource_names_subscribe);
        assert_eq!(asked.filter(|name| *name != "*").count(), names.len());
    }
}
