//! What is refused, and that policies together decide as the reference says.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    PassthroughRoute, WorkloadUid,
    policy::{
        Policy, Scope,
        tests::{Request, policy, reference_matches, request},
    },
};

fn workload(ips: &[&str]) -> Workload {
    let identity = "spiffe://td/ns/a/sa/server".parse().unwrap();
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    Workload::new(WorkloadUid::new("server"), "server", identity, ips)
}

fn facts<'a>(peer: Option<&'a SpiffeId>, client: &str, target: &str) -> InboundFacts<'a> {
    InboundFacts {
        client: ClientAddr(client.parse().unwrap()),
        peer,
        target: target.parse().unwrap(),
        mtls: MtlsMode::Permissive,
    }
}

/// DENY first, then whether any ALLOW is there, then whether one matches.
fn reference_allows(policies: &[&Policy], request: &Request) -> bool {
    let matching = |action| policies.iter().any(|p| p.action == action && reference_matches(p, request));
    let allows = policies.iter().any(|p| p.action == Action::Allow);
    !matching(Action::Deny) && (!allows || matching(Action::Allow))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Would break if scope, dry run, precedence of DENY or the default of "no ALLOW in force" were wrong.
    #[test]
    fn policies_together_decide_as_the_reference_says(
        policies in proptest::collection::vec(policy(), 0..5),
        selected in proptest::collection::vec(any::<bool>(), 5),
        request in request(),
    ) {
        let mut snapshot = Snapshot::default();
        let mut server = workload(&[]);
        server.workload_ips = vec![request.destination_ip];
        for (policy, selected) in policies.iter().zip(&selected) {
            snapshot.insert_policy(policy.clone());
            if policy.scope == Scope::WorkloadSelector && *selected {
                server.authorization_policies.push(policy.key());
            }
        }
        let in_force: Vec<&Policy> = snapshot
            .policies()
            .map(|policy| &**policy)
            .filter(|policy| !policy.dry_run)
            .filter(|policy| {
                let everywhere = policy.scope == Scope::Global;
                let here = policy.scope == Scope::Namespace && policy.namespace == "a";
                everywhere || here || server.authorization_policies.contains(&policy.key())
            })
            .collect();
        let facts = InboundFacts {
            client: ClientAddr(SocketAddr::new(request.source_ip, 40000)),
            peer: request.peer.as_ref(),
            target: SocketAddr::new(request.destination_ip, request.destination_port),
            mtls: MtlsMode::Permissive,
        };
        let verdict = authorize_inbound(&snapshot, &Arc::new(server.clone()), &facts);
        prop_assert_eq!(verdict.is_ok(), reference_allows(&in_force, &request));
    }
}

#[test]
fn what_never_reaches_a_policy_is_refused_by_name() {
    let snapshot = Snapshot::default();
    let server = Arc::new(workload(&["10.0.0.2"]));
    let foreign: SpiffeId = "spiffe://other/ns/a/sa/x".parse().unwrap();
    let verdict =
        |facts: &InboundFacts<'_>| authorize_inbound(&snapshot, &server, facts).unwrap_err().reason();

    assert_eq!(verdict(&facts(None, "10.0.0.1:4000", "10.0.0.3:80")), "wrong_destination");
    for port in RESERVED_PORTS {
        assert_eq!(verdict(&facts(None, "10.0.0.1:4000", &format!("10.0.0.2:{port}"))), "reserved_port");
    }
    assert_eq!(verdict(&facts(Some(&foreign), "10.0.0.1:4000", "10.0.0.2:80")), "other_trust_domain");
    let strict = InboundFacts { mtls: MtlsMode::Strict, ..facts(None, "10.0.0.1:4000", "10.0.0.2:80") };
    assert_eq!(verdict(&strict), "plaintext_in_strict");
}

#[test]
fn a_policy_that_is_named_but_unknown_refuses() {
    let mut server = workload(&["10.0.0.2"]);
    server.authorization_policies.push("a/missing".parse().unwrap());
    let facts = facts(None, "10.0.0.1:4000", "10.0.0.2:80");
    let refusal = authorize_inbound(&Snapshot::default(), &Arc::new(server), &facts).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownPolicy("a/missing".parse().unwrap()));
}

#[test]
fn ipv4_in_ipv6_clothes_is_judged_and_dialled_as_ipv4() {
    let mut snapshot = Snapshot::default();
    let deny = r#"{"name":"d","namespace":"a","scope":"Namespace","action":"Deny","rules":[[[{"sourceIps":["10.0.0.0/8"]}]]]}"#;
    snapshot.insert_policy(serde_json::from_str(deny).unwrap());
    let server = Arc::new(workload(&["10.0.0.2"]));
    let denied = facts(None, "[::ffff:10.0.0.1]:4000", "[::ffff:10.0.0.2]:80");
    assert_eq!(authorize_inbound(&snapshot, &server, &denied).unwrap_err().reason(), "denied_by_policy");
    let allowed = facts(None, "[::ffff:192.0.2.1]:4000", "[::ffff:10.0.0.2]:80");
    let route = authorize_inbound(&snapshot, &server, &allowed).unwrap().into_route();
    assert_eq!(route.target, "10.0.0.2:80".parse().unwrap());
    assert_eq!(route.source, Some("192.0.2.1".parse::<IpAddr>().unwrap()));
}

#[test]
fn the_pods_own_address_is_never_its_source() {
    let server = Arc::new(workload(&["10.0.0.2"]));
    let own = facts(None, "10.0.0.2:4000", "10.0.0.2:80");
    let permit = authorize_inbound(&Snapshot::default(), &server, &own).unwrap();
    assert_eq!(permit.route().source, None, "a source equal to the destination cannot be bound");
}

#[test]
fn outbound_plaintext_to_a_proxy_port_of_the_mesh_is_refused_and_elsewhere_allowed() {
    let mut hbone = workload(&["10.0.0.2"]);
    hbone.protocol = Protocol::Hbone;
    let to = |destination: Option<Workload>, port| {
        Route::Passthrough(PassthroughRoute {
            source_uid: WorkloadUid::new("client"),
            target: SocketAddr::new("10.0.0.2".parse().unwrap(), port),
            destination: destination.map(Arc::new),
            service: None,
        })
    };
    let refused = authorize_outbound(to(Some(hbone.clone()), 15008)).unwrap_err();
    assert_eq!(refused, Refusal::ReservedPort(15008));
    assert!(authorize_outbound(to(Some(hbone), 80)).is_ok());
    assert!(authorize_outbound(to(None, 15008)).is_ok(), "another mesh's proxy is none of our business");
}
