//! Policies against an independent reading of what they mean, and the spellings they come in.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::{
    Action, Attributes, Match, Policy, Scope, ServiceAccountMatch, StringMatch, Unenforced,
    compiled::Compiled,
};
use crate::SpiffeId;

/// One request as plain text, as the reference sees it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    pub(crate) destination_port: u16,
}

impl Request {
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            peer: self.peer.as_ref(),
            other_names: &[],
            source_ip: self.source_ip,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
        }
    }
}

/// The meaning, written the slow way: every field of a match becomes (values that hold, values, negated that hold).
pub(crate) fn reference_matches(policy: &Policy, request: &Request) -> bool {
    let allow = policy.action == Action::Allow;
    let in_doubt = !policy.not_understood.is_empty();
    if allow && (policy.extensions.is_given() || in_doubt) {
        return false;
    }
    // What is in doubt may have been its rules.
    let mut any_rule = in_doubt && policy.rules.is_empty();
    for rule in &policy.rules {
        // To allow on less than what was asked for would let in what nobody allowed.
        let mut all_clauses = !(allow && rule.iter().flatten().any(has_more));
        for clause in rule {
            let mut any_match = clause.is_empty();
            for m in clause {
                any_match |= reference_match(m, request);
            }
            all_clauses &= any_match;
        }
        any_rule |= all_clauses;
    }
    any_rule
}

/// A part of layer 7, or one that is not understood.
fn has_more(m: &Match) -> bool {
    let text = serde_json::to_value(m).unwrap();
    text.as_object().unwrap().iter().any(|(key, value)| key == "notUnderstood" || value.is_string())
}

fn reference_match(m: &Match, request: &Request) -> bool {
    let uri = request.peer.as_ref().map(ToString::to_string);
    let parts: Option<Vec<String>> = uri.as_ref().map(|uri| uri.split('/').map(str::to_owned).collect());
    let namespace = parts.as_ref().map(|parts| parts[4].clone());
    let account = parts.as_ref().map(|parts| parts[6].clone());
    let principal = uri.map(|uri| uri["spiffe://".len()..].to_owned());
    let text = |value: &Option<String>, m: &StringMatch| match (value, m) {
        (None, _) => false,
        (Some(v), StringMatch::Exact(e)) => v == e,
        (Some(v), StringMatch::Prefix(p)) => v.len() >= p.len() && v[..p.len()] == **p,
        (Some(v), StringMatch::Suffix(s)) => v.len() >= s.len() && v[v.len() - s.len()..] == **s,
        (Some(_), StringMatch::Presence) => true,
    };
    let accounts = |m: &ServiceAccountMatch| {
        namespace.as_ref() == Some(&m.namespace) && account.as_ref() == Some(&m.service_account)
    };
    let inside = |ip: IpAddr| {
        move |net: &IpNet| IpNet::new(ip, net.prefix_len()).is_ok_and(|n| n.trunc() == net.trunc())
    };
    let fields = [
        count(&m.namespaces, &m.not_namespaces, |v| text(&namespace, v)),
        count(&m.service_accounts, &m.not_service_accounts, accounts),
        count(&m.principals, &m.not_principals, |v| text(&principal, v)),
        count(&m.source_ips, &m.not_source_ips, inside(request.source_ip)),
        count(&m.destination_ips, &m.not_destination_ips, inside(request.destination_ip)),
        count(&m.destination_ports, &m.not_destination_ports, |p| *p == request.destination_port),
    ];
    // What was asked of layer 7 holds for some request, so to deny it all of them are denied.
    let set = has_more(m) || fields.iter().any(|f| f.values + f.negated > 0);
    set && fields.iter().all(|f| (f.values == 0 || f.holding > 0) && f.negated_holding == 0)
}

struct Counts {
    values: usize,
    holding: usize,
    negated: usize,
    negated_holding: usize,
}

fn count<T>(values: &[T], negated: &[T], holds: impl Fn(&T) -> bool) -> Counts {
    Counts {
        values: values.len(),
        holding: values.iter().filter(|v| holds(v)).count(),
        negated: negated.len(),
        negated_holding: negated.iter().filter(|v| holds(v)).count(),
    }
}

fn string_match(words: &'static [&'static str]) -> impl Strategy<Value = StringMatch> {
    let word = proptest::sample::select(words).prop_map(str::to_owned);
    prop_oneof![
        word.clone().prop_map(StringMatch::Exact),
        word.clone().prop_map(StringMatch::Prefix),
        word.prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn few<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    // Mostly empty: a match with every field set almost never holds and would test nothing.
    prop_oneof![4 => Just(0usize), 2 => Just(1), 1 => Just(2)].prop_flat_map({
        let value = std::rc::Rc::new(value);
        move |n| proptest::collection::vec(std::rc::Rc::clone(&value), n)
    })
}

fn ip() -> impl Strategy<Value = IpAddr> {
    proptest::sample::select(&["10.0.0.1", "10.0.1.1", "192.0.2.1", "fd00::1", "fd01::1"][..])
        .prop_map(|ip| ip.parse().unwrap())
}

fn net() -> impl Strategy<Value = IpNet> {
    let nets = ["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "::/0", "fd00::/16", "10.0.1.7/24"];
    proptest::sample::select(nets.to_vec()).prop_map(|net| net.parse().unwrap())
}

fn port() -> impl Strategy<Value = u16> {
    proptest::sample::select(vec![80u16, 443])
}

fn match_() -> impl Strategy<Value = Match> {
    const NAMESPACES: &[&str] = &["a", "ab", "b", ""];
    const PRINCIPALS: &[&str] = &["td/ns/a/sa/x", "td/ns/a", "td/", "/sa/x", "x", "other", ""];
    let account = (proptest::sample::select(vec!["a", "ab"]), proptest::sample::select(vec!["x", "y"]))
        .prop_map(|(namespace, account)| ServiceAccountMatch {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
        });
    (
        (few(string_match(NAMESPACES)), few(string_match(NAMESPACES))),
        (few(account.clone()), few(account)),
        (few(string_match(PRINCIPALS)), few(string_match(PRINCIPALS))),
        (few(net()), few(net())),
        (few(net()), few(net())),
        (few(port()), few(port())),
        unenforced(),
        not_understood(),
    )
        .prop_map(|(namespaces, accounts, principals, sources, destinations, ports, paths, doubt)| {
            Match {
                namespaces: namespaces.0,
                not_namespaces: namespaces.1,
                service_accounts: accounts.0,
                not_service_accounts: accounts.1,
                principals: principals.0,
                not_principals: principals.1,
                source_ips: sources.0,
                not_source_ips: sources.1,
                destination_ips: destinations.0,
                not_destination_ips: destinations.1,
                destination_ports: ports.0,
                not_destination_ports: ports.1,
                paths,
                not_understood: doubt,
                ..Match::default()
            }
        })
}

fn not_understood() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![9 => Just(Vec::new()), 1 => Just(vec!["colour".to_owned()])]
}

fn unenforced() -> impl Strategy<Value = Unenforced> {
    prop_oneof![9 => Just(Unenforced::default()), 1 => Just(Unenforced::GIVEN)]
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let rules = {
        let clause = proptest::collection::vec(match_(), 0..3);
        let rule = proptest::collection::vec(clause, 0..3);
        proptest::collection::vec(rule, 0..3)
    };
    let scope = proptest::sample::select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]);
    let action = proptest::sample::select(vec![Action::Allow, Action::Deny]);
    let name = proptest::sample::select(vec!["p", "q", "r", "s"]);
    let namespace = proptest::sample::select(vec!["a", "b"]);
    (rules, scope, action, name, namespace, proptest::bool::weighted(0.2), unenforced(), not_understood())
        .prop_map(|(rules, scope, action, name, namespace, dry_run, extensions, not_understood)| Policy {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            scope,
            action,
            rules,
            dry_run,
            extensions,
            not_understood,
        })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let ids = ["spiffe://td/ns/a/sa/x", "spiffe://td/ns/a/sa/y", "spiffe://td/ns/ab/sa/x"];
    let peer = proptest::option::weighted(0.8, proptest::sample::select(ids.to_vec()));
    (peer, ip(), ip(), port()).prop_map(|(peer, source_ip, destination_ip, destination_port)| Request {
        peer: peer.map(|id| id.parse().unwrap()),
        source_ip,
        destination_ip,
        destination_port,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Would break if OR and AND were swapped at any of the five levels, or a default were wrong.
    #[test]
    fn a_policy_matches_what_the_reference_says(policy in policy(), request in request()) {
        let compiled = Compiled::new(policy.clone());
        prop_assert_eq!(compiled.matches(&request.attributes()), reference_matches(&policy, &request));
    }
}

pub(crate) fn plain(rules: Vec<Vec<Vec<Match>>>) -> Policy {
    Policy {
        name: "p".into(),
        namespace: "a".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules,
        dry_run: false,
        extensions: Unenforced::default(),
        not_understood: Vec::new(),
    }
}

fn matches(policy: &Policy, request: &Request) -> bool {
    Compiled::new(policy.clone()).matches(&request.attributes())
}

fn from(peer: Option<&str>) -> Request {
    Request {
        peer: peer.map(|id| id.parse().unwrap()),
        source_ip: "10.0.0.1".parse().unwrap(),
        destination_ip: "10.0.0.2".parse().unwrap(),
        destination_port: 80,
    }
}

#[test]
fn emptiness_means_different_things_at_each_level() {
    let anybody = from(None);
    for (rules, expected) in [
        (vec![], false),
        (vec![vec![]], true),
        (vec![vec![vec![]]], true),
        (vec![vec![vec![Match::default()]]], false),
    ] {
        assert_eq!(matches(&plain(rules.clone()), &anybody), expected, "{rules:?}");
    }
}

#[test]
fn strict_mtls_as_a_policy_denies_exactly_those_without_a_principal() {
    let m = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    let strict = plain(vec![vec![vec![m]]]);
    assert!(matches(&strict, &from(None)));
    assert!(!matches(&strict, &from(Some("spiffe://td/ns/a/sa/x"))));
}

#[test]
fn a_principal_spelled_with_its_scheme_is_the_same_principal() {
    let request = from(Some("spiffe://td/ns/a/sa/x"));
    for m in [
        StringMatch::Exact("spiffe://td/ns/a/sa/x".into()),
        StringMatch::Exact("td/ns/a/sa/x".into()),
        StringMatch::Prefix("spiffe://td/ns/a/".into()),
    ] {
        let policy = plain(vec![vec![vec![Match { principals: vec![m.clone()], ..Match::default() }]]]);
        assert!(matches(&policy, &request), "{m:?}");
    }
}

/// What only a waypoint can tell must never let anybody in here, nor let anybody pass a DENY.
#[test]
fn what_is_not_enforced_never_widens_access() {
    let get = r#"{"methods": ["GET"]}"#;
    let admin_get = r#"{"methods": ["GET"], "principals": [{"exact": "td/ns/a/sa/x"}]}"#;
    let admin = from(Some("spiffe://td/ns/a/sa/x"));
    let other = from(Some("spiffe://td/ns/a/sa/y"));
    for (action, part, from_admin, from_other) in [
        (Action::Allow, get, false, false),
        (Action::Allow, admin_get, false, false),
        (Action::Deny, get, true, true),
        (Action::Deny, admin_get, true, false),
    ] {
        let m: Match = serde_json::from_str(part).unwrap();
        let policy = Policy { action, ..plain(vec![vec![vec![m]]]) };
        assert_eq!(policy.unenforced(), ["methods"]);
        assert_eq!((matches(&policy, &admin), matches(&policy, &other)), (from_admin, from_other), "{part}");
    }
    let all = Policy { action: Action::Allow, extensions: Unenforced::GIVEN, ..plain(vec![vec![]]) };
    assert!(!matches(&all, &admin), "nobody knows what an extension would ask for");
}

#[test]
fn a_field_of_layer_7_that_says_nothing_asks_for_nothing() {
    for (text, given) in [
        (r#"{"paths": []}"#, false),
        (r#"{"paths": null}"#, false),
        (r#"{"when": {}}"#, false),
        (r#"{"paths": ["/x"]}"#, true),
        (r#"{"when": [{"key": "request.headers[x]", "values": ["y"]}]}"#, true),
        (r#"{"hosts": "not enforced"}"#, true),
        (r#"{"extensions": [{"name": "x", "config": {"a": 1}}]}"#, true),
    ] {
        let m: Match = serde_json::from_str(text).unwrap();
        assert_eq!(m.unenforced().next().is_some(), given, "{text}");
        let dumped = serde_json::to_string(&m).unwrap();
        assert_eq!(serde_json::from_str::<Match>(&dumped).unwrap(), m, "a dump loads again: {dumped}");
    }
}
