//! A decision is made for every connection: it must not allocate.

use std::sync::Arc;

use ztunnel_model::{
    ClientAddr, Snapshot, SpiffeId, Workload, WorkloadUid,
    authorize::{InboundFacts, authorize_inbound},
};

#[test]
fn a_decision_allocates_nothing() {
    let mut snapshot = Snapshot::default();
    for text in [
        r#"{"name":"allow","namespace":"a","scope":"Namespace","action":"Allow","rules":[[[{"serviceAccounts":[{"namespace":"a","serviceAccount":"x"}]}]]]}"#,
        r#"{"name":"deny","namespace":"a","scope":"Global","action":"Deny","rules":[[[{"sourceIps":["192.0.2.0/24"]}]]]}"#,
        r#"{"name":"tried","namespace":"a","scope":"Global","action":"Deny","dryRun":true,"rules":[[[{"sourceIps":["10.0.0.0/8"]}]]]}"#,
        r#"{"name":"own","namespace":"a","scope":"WorkloadSelector","action":"Allow","rules":[[[{"destinationPorts":[81]}]]]}"#,
    ] {
        snapshot.insert_policy(serde_json::from_str(text).unwrap());
    }
    let identity = "spiffe://td/ns/a/sa/server".parse().unwrap();
    let mut server =
        Workload::new(WorkloadUid::new("server"), "server", identity, vec!["10.0.0.2".parse().unwrap()]);
    server.authorization_policies = vec!["a/own".parse().unwrap()];
    let server = Arc::new(server);
    let peer: SpiffeId = "spiffe://td/ns/a/sa/x".parse().unwrap();
    for (client, peer, allowed) in [
        ("10.0.0.1:4000", Some(&peer), true),
        ("10.0.0.1:4000", None, false),
        ("192.0.2.1:4000", Some(&peer), false),
    ] {
        let facts = InboundFacts {
            client: ClientAddr(client.parse().unwrap()),
            peer,
            target: "10.0.0.2:80".parse().unwrap(),
            mtls: None,
        };
        let mut decision = None;
        let counted = allocation_counter::measure(|| {
            decision = Some(authorize_inbound(&snapshot, &server, &facts));
        });
        assert_eq!(decision.unwrap().decision.is_ok(), allowed, "{client}");
        assert_eq!(counted.count_total, 0, "{client}");
    }
}
