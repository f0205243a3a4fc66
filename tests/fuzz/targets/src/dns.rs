//! DNS messages: what pods ask, and what other servers answer.

use std::sync::Arc;

use control::state_of;
use dns::{Answer, Malformed, Query, Transport, View, answer, fuzzing::relayed};
use model::{Snapshot, Workload, WorkloadUid};

const MESH: &str = "
workloads:
- {uid: w, name: w, namespace: a, workloadIps: [10.1.1.10], services: {a/web.a.svc.cluster.local: {}}}
- {uid: p, name: p, namespace: a, workloadIps: [10.1.1.11, 'fd01::11'], services: {a/web.a.svc.cluster.local: {}, a/peers.a.svc.cluster.local: {}}}
services:
- {name: web, namespace: a, hostname: web.a.svc.cluster.local, vips: [/10.96.0.1, '/fd96::1'], ports: {80: 8080}, portNames: {http: 80}}
- {name: peers, namespace: a, hostname: peers.a.svc.cluster.local, ports: {80: 8080}}
- {name: wild, namespace: a, hostname: '*.example.com', vips: [/10.96.0.3], ports: {443: 443}}
";
const HEADER: usize = 12;

/// Whatever a pod asks: an answer is one to that request, has the room that it may have, and can be read.
pub fn dns_query(data: &[u8]) {
    let query = match Query::parse(data) {
        Ok(query) => query,
        Err(Malformed::Unanswerable) => return,
        Err(Malformed::Refused(refusal)) => return is_answer_to(data, &refusal),
    };
    let (snapshot, client) = mesh();
    for (transport, room) in [(Transport::Udp, 4096), (Transport::Tcp, 65_535)] {
        let view = View { cluster_domain: "cluster.local", transport, dice: 7 };
        if let Answer::Reply(reply) = answer(&snapshot, &client, &query, &view) {
            assert!(reply.len() <= room, "{} bytes over {transport:?}", reply.len());
            is_answer_to(data, &reply);
        }
    }
}

/// A request, its length before it, and what came back. Only what answers it is believed, with the pod's own id, and no
/// more than the pod can take.
pub fn dns_answer(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (asked, message) = rest.split_at(length);
    let Ok(query) = Query::parse(asked) else { return };
    for (transport, room) in [(Transport::Udp, 4096), (Transport::Tcp, 65_535)] {
        let Some(relayed) = relayed(&query, transport, message.to_vec()) else { continue };
        assert!(relayed.len() <= room.min(message.len()), "{} bytes over {transport:?}", relayed.len());
        is_answer_to(asked, &relayed);
        let name = |bytes: &[u8]| bytes.get(HEADER..).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
        if relayed.len() > HEADER {
            let question = asked[HEADER..].iter().position(|byte| *byte == 0).expect("a name ends");
            assert_eq!(name(&relayed)[..question], name(asked)[..question], "to another question");
        }
    }
}

fn is_answer_to(asked: &[u8], answer: &[u8]) {
    assert!(answer.len() >= HEADER, "{answer:?} is no message");
    assert_eq!(answer[..2], asked[..2], "to somebody else");
    assert_ne!(answer[2] & 0x80, 0, "a request, to which we might get an answer for ever");
}

fn mesh() -> (Arc<Snapshot>, Arc<Workload>) {
    let trust_domain = "cluster.local".parse().expect("a trust domain");
    let (snapshot, _) = state_of("mesh".as_ref(), MESH, &trust_domain).expect("the mesh");
    let workload = Arc::clone(snapshot.workload(&WorkloadUid::new("w")).expect("the workload"));
    (snapshot, workload)
}
