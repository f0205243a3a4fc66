//! That what is not met could not have matched, and that few are met.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::{
    SpiffeId,
    policy::{
        Match, Policy, ServiceAccountMatch, StringMatch,
        tests::{Request, plain, policy, request},
    },
};

fn index<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> RuleIndex {
    let mut index = RuleIndex::default();
    for policy in policies {
        index.insert(&Arc::new(Compiled::new(policy.clone())));
    }
    index
}

/// No two of the same key, as in a snapshot.
fn policies() -> impl Strategy<Value = Vec<Policy>> {
    proptest::collection::vec(policy(), 0..6).prop_map(|mut policies| {
        for (number, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("p{number}");
        }
        policies
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Would break if a rule were filed under a condition that it does not need.
    #[test]
    fn the_index_finds_a_match_exactly_if_there_is_one(
        policies in policies(),
        request in request(),
    ) {
        let attributes = request.attributes();
        let any = policies.iter().any(|policy| Compiled::new(policy.clone()).matches(&attributes));
        prop_assert_eq!(index(&policies).matching(&attributes).is_some(), any);
    }

    /// Would break if removal missed one of the places where a rule is filed.
    #[test]
    fn what_is_removed_leaves_nothing(policies in policies()) {
        let mut index = RuleIndex::default();
        let compiled: Vec<_> = policies.into_iter().map(|policy| Arc::new(Compiled::new(policy))).collect();
        compiled.iter().for_each(|policy| index.insert(policy));
        compiled.iter().for_each(|policy| index.remove(policy));
        prop_assert_eq!(index, RuleIndex::default());
    }
}

const MANY: u16 = 10_000;

/// `MANY` policies, each for somebody or something else, made by `of` from a number.
fn many(of: impl Fn(u16) -> Match) -> Vec<Policy> {
    let policy = |number| Policy { name: format!("p{number}"), ..plain(vec![vec![vec![of(number)]]]) };
    (1..=MANY).map(policy).collect()
}

fn met(policies: &[Policy], request: &Request) -> usize {
    index(policies).candidates(&request.attributes()).count()
}

/// A decision must cost the same with one policy or ten thousand that do not concern the connection.
#[test]
fn rules_that_do_not_concern_a_connection_are_not_met() {
    let exact = |text: String| vec![StringMatch::Exact(text)];
    let ip = |number: u16| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + u32::from(number)));
    let like = |text: String| Match { principals: vec![StringMatch::Prefix(text)], ..Match::default() };
    let by: [(&str, Vec<Policy>); 10] = [
        ("principals of a namespace", many(|n| like(format!("td/ns/n{n}/")))),
        (
            "account of any namespace",
            many(|n| Match {
                principals: vec![StringMatch::Suffix(format!("/sa/s{n}"))],
                ..Match::default()
            }),
        ),
        (
            "namespaces alike",
            many(|n| Match { namespaces: vec![StringMatch::Prefix(format!("n{n}-"))], ..Match::default() }),
        ),
        ("principal", many(|n| Match { principals: exact(format!("td/ns/a/sa/s{n}")), ..Match::default() })),
        (
            "account",
            many(|n| {
                let service_account = format!("s{n}");
                let account = ServiceAccountMatch { namespace: "a".into(), service_account };
                Match { service_accounts: vec![account], ..Match::default() }
            }),
        ),
        ("namespace", many(|n| Match { namespaces: exact(format!("n{n}")), ..Match::default() })),
        ("source", many(|n| Match { source_ips: vec![ip(n).into()], ..Match::default() })),
        ("destination", many(|n| Match { destination_ips: vec![ip(n).into()], ..Match::default() })),
        ("port", many(|n| Match { destination_ports: vec![n], ..Match::default() })),
        (
            "port of one principal",
            many(|n| Match {
                principals: exact("td/ns/a/sa/s7".into()),
                destination_ports: vec![n],
                ..Match::default()
            }),
        ),
    ];
    let peer = |uri: &str| Some(uri.parse::<SpiffeId>().unwrap());
    let concerned = Request {
        peer: peer("spiffe://td/ns/a/sa/s7"),
        source_ip: ip(7),
        destination_ip: ip(7),
        destination_port: 7,
    };
    let in_namespace = Request { peer: peer("spiffe://td/ns/n7/sa/x"), ..concerned };
    let in_one_alike = Request { peer: peer("spiffe://td/ns/n7-west/sa/x"), ..concerned };
    let unconcerned = Request {
        peer: peer("spiffe://td/ns/b/sa/x"),
        source_ip: ip(20_000),
        destination_ip: ip(20_000),
        destination_port: 20_000,
    };
    for (what, policies) in &by {
        let concerned = match *what {
            "namespace" | "principals of a namespace" => &in_namespace,
            "namespaces alike" => &in_one_alike,
            _ => &concerned,
        };
        assert_eq!(met(policies, concerned), 1, "by {what}");
        assert_eq!(met(policies, &unconcerned), 0, "by {what}");
    }
}

/// One clause may name several; the rule must be met through each of them, and through nothing else.
#[test]
fn a_rule_is_met_through_each_of_its_values() {
    let m = Match {
        principals: vec![
            StringMatch::Exact("td/ns/a/sa/x".into()),
            StringMatch::Exact("td/ns/a/sa/y".into()),
        ],
        destination_ports: vec![80, 443],
        ..Match::default()
    };
    let policies = [plain(vec![vec![vec![m]]])];
    for (account, port, expected) in [("x", 80, 1), ("y", 443, 1), ("z", 80, 0), ("x", 81, 0)] {
        let request = Request {
            peer: Some(format!("spiffe://td/ns/a/sa/{account}").parse().unwrap()),
            source_ip: "10.0.0.1".parse().unwrap(),
            destination_ip: "10.0.0.2".parse().unwrap(),
            destination_port: port,
        };
        assert_eq!(met(&policies, &request), expected, "{account}:{port}");
    }
}
