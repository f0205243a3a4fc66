//! What is refused, and that policies and settings together decide as the reference says.

use proptest::prelude::*;

use super::*;
use crate::{
    Settings, WorkloadUid,
    policy::{
        Action, Policy, Scope,
        tests::{Request, policy, reference_matches, request},
    },
};

fn workload(ips: &[&str]) -> Workload {
    let identity = "spiffe://td/ns/a/sa/server".parse().unwrap();
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    Workload::new(WorkloadUid::new("server"), "server", identity, ips)
}

fn facts<'a>(peer: Option<&'a SpiffeId>, client: &str, target: &str) -> InboundFacts<'a> {
    let client = ClientAddr(client.parse().unwrap());
    InboundFacts { client, peer, target: target.parse().unwrap(), mtls: None }
}

fn settings(text: &str) -> Settings {
    serde_json::from_str(text).unwrap()
}

fn refusal(snapshot: &Snapshot, server: &Arc<Workload>, facts: &InboundFacts<'_>) -> Refusal {
    authorize_inbound(snapshot, server, facts).decision.unwrap_err()
}

/// An application's loopback is for its own: an administration that listens there asks nobody who they are. A peer must not
/// choose among its ports because the mesh's owner named none.
#[test]
fn who_is_told_without_a_port_is_asked_only_where_a_service_is() {
    let mut server = workload(&["10.0.0.2"]);
    let web = "a/web.a.svc.cluster.local".parse().unwrap();
    server.services.insert(web, [(81, 9090)].into());
    let mut service = crate::service::Service::new("a", "web.a.svc.cluster.local");
    service.ports = [(80, 8080), (81, 0)].into();
    let mut snapshot = Snapshot::default();
    snapshot.insert_service(service);
    let peer: SpiffeId = "spiffe://td/ns/a/sa/client".parse().unwrap();
    let ask = |server: &Workload, peer: Option<&SpiffeId>, port: u16| {
        let target = format!("10.0.0.2:{port}");
        let verdict =
            authorize_inbound(&snapshot, &Arc::new(server.clone()), &facts(peer, "10.0.0.1:4000", &target));
        verdict.decision.map(|allowed| allowed.permit.route().target.to_string()).map_err(|r| r.reason())
    };
    let told = |text: &str| {
        let tunnel = Some(serde_json::from_str(text).unwrap());
        Workload { application_tunnel: tunnel, ..server.clone() }
    };
    let anywhere = told(r#"{"protocol": "PROXY"}"#);
    for port in [8080, 9090] {
        assert_eq!(ask(&anywhere, Some(&peer), port), Ok(format!("127.0.0.1:{port}")));
    }
    assert_eq!(ask(&anywhere, Some(&peer), 15000), Err("not_served"));
    assert_eq!(ask(&anywhere, None, 15000), Ok("10.0.0.2:15000".to_owned()), "plaintext is not told");
    let named = told(r#"{"protocol": "PROXY", "port": 15088}"#);
    assert_eq!(ask(&named, Some(&peer), 15000), Ok("127.0.0.1:15088".to_owned()));
    assert_eq!(ask(&told("{}"), Some(&peer), 15000), Ok("10.0.0.2:15000".to_owned()));
}

/// The meaning, written the slow way: settings of the mesh and of namespace `a`, of which the server is.
fn reference_allows(settings: &Settings, policies: &[&Policy], request: &Request, audited: bool) -> bool {
    let own = settings.namespaces.get("a").cloned().unwrap_or_default();
    let mut mode = settings.mtls;
    let mut default_deny = settings.default_deny;
    if audited {
        mode = settings.audit.mtls.unwrap_or(mode);
        default_deny = settings.audit.default_deny.unwrap_or(default_deny);
    }
    mode = own.mtls.unwrap_or(mode);
    default_deny = own.default_deny.unwrap_or(default_deny);
    if audited {
        mode = own.audit.mtls.unwrap_or(mode);
        default_deny = own.audit.default_deny.unwrap_or(default_deny);
    }
    match (mode, &request.peer) {
        (MtlsMode::Strict, None) | (MtlsMode::Disable, Some(_)) => return false,
        _ => {}
    }
    let policies: Vec<_> = policies.iter().filter(|policy| audited || !policy.dry_run).collect();
    let matching = |action| policies.iter().any(|p| p.action == action && reference_matches(p, request));
    let needs_one = default_deny || policies.iter().any(|p| p.action == Action::Allow);
    !matching(Action::Deny) && (!needs_one || matching(Action::Allow))
}

fn any_settings() -> impl Strategy<Value = Settings> {
    // Rarely a mode that refuses before any policy is asked.
    let mode = || prop_oneof![8 => Just(MtlsMode::Permissive), 1 => Just(MtlsMode::Strict), 1 => Just(MtlsMode::Disable)];
    let audit = || {
        (proptest::option::weighted(0.2, mode()), proptest::option::weighted(0.2, any::<bool>()))
            .prop_map(|(mtls, default_deny)| crate::settings::AuditSettings { mtls, default_deny })
    };
    let namespace =
        (proptest::option::weighted(0.3, mode()), proptest::option::weighted(0.3, any::<bool>()), audit())
            .prop_map(|(mtls, default_deny, audit)| crate::settings::NamespaceSettings {
                mtls,
                default_deny,
                audit,
                ..Default::default()
            });
    let name = proptest::sample::select(vec!["a", "b"]);
    (mode(), any::<bool>(), audit(), proptest::option::of((name, namespace))).prop_map(
        |(mtls, default_deny, audit, namespace)| Settings {
            mtls,
            default_deny,
            audit,
            namespaces: namespace.into_iter().map(|(name, own)| (name.to_owned(), own)).collect(),
            ..Settings::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Would break if scope, dry run, precedence of DENY or of a level, the default of "no ALLOW in force", or what
    /// an audit adds were wrong.
    #[test]
    fn policies_and_settings_together_decide_as_the_reference_says(
        policies in proptest::collection::vec(policy(), 0..5),
        selected in proptest::collection::vec(any::<bool>(), 5),
        settings in any_settings(),
        request in request(),
    ) {
        let mut snapshot = Snapshot::default();
        snapshot.set_settings(settings.clone());
        let mut server = workload(&[]);
        server.workload_ips = vec![request.destination_ip];
        for (policy, selected) in policies.iter().zip(&selected) {
            snapshot.insert_policy(policy.clone());
            if policy.scope == Scope::WorkloadSelector && *selected {
                server.authorization_policies.push(policy.key());
            }
        }
        let applying: Vec<&Policy> = snapshot
            .policies()
            .map(|policy| &**policy)
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
            mtls: None,
        };
        let verdict = authorize_inbound(&snapshot, &Arc::new(server.clone()), &facts);
        prop_assert_eq!(verdict.decision.is_ok(), reference_allows(&settings, &applying, &request, false));
        match verdict.audit {
            Some(audit) => {
                let allowed = matches!(audit, Audit::Allowed { .. });
                prop_assert_eq!(allowed, reference_allows(&settings, &applying, &request, true));
            }
            None => prop_assert!(applying.iter().all(|policy| !policy.dry_run), "a dry run goes untold"),
        }
    }
}

#[test]
fn what_never_reaches_a_policy_is_refused_by_name() {
    let snapshot = Snapshot::default();
    let server = Arc::new(workload(&["10.0.0.2"]));
    let foreign: SpiffeId = "spiffe://other/ns/a/sa/x".parse().unwrap();
    let verdict = |facts: &InboundFacts<'_>| refusal(&snapshot, &server, facts).reason();

    assert_eq!(verdict(&facts(None, "10.0.0.1:4000", "10.0.0.3:80")), "wrong_destination");
    for port in RESERVED_PORTS {
        assert_eq!(verdict(&facts(None, "10.0.0.1:4000", &format!("10.0.0.2:{port}"))), "reserved_port");
    }
    assert_eq!(verdict(&facts(Some(&foreign), "10.0.0.1:4000", "10.0.0.2:80")), "other_trust_domain");
    let strict = InboundFacts { mtls: Some(MtlsMode::Strict), ..facts(None, "10.0.0.1:4000", "10.0.0.2:80") };
    assert_eq!(verdict(&strict), "plaintext_in_strict");
}

/// Fails if a partner passes where it is not federated with, or an alias's workload is taken for another.
#[test]
fn federated_peers_are_judged_by_policy_and_aliases_are_one_workload() {
    let domain = |text: &str| text.parse::<crate::TrustDomain>().unwrap();
    let server = Arc::new(workload(&["10.0.0.2"]));
    let own = server.identity.trust_domain().clone();
    let mut snapshot = Snapshot::default();
    snapshot.set_trust_domains(crate::TrustDomains::new(own.clone(), [domain("old")], [domain("partner")]));
    let id = |domain: &crate::TrustDomain| SpiffeId::new(domain.clone(), "a", "x").unwrap();
    let reason = |snapshot: &Snapshot, peer: &SpiffeId| {
        let verdict =
            authorize_inbound(snapshot, &server, &facts(Some(peer), "10.0.0.1:4000", "10.0.0.2:80"));
        verdict.decision.map_or_else(|refusal| refusal.reason(), |_| "allowed")
    };
    for (peer, expected) in [("old", "allowed"), ("partner", "allowed"), ("stranger", "other_trust_domain")] {
        assert_eq!(reason(&snapshot, &id(&domain(peer))), expected, "{peer}");
    }
    // Each spelling of a policy means the workload by any name, found by index and by trying, for and against.
    for spelling in [id(&own), id(&domain("old"))] {
        let policy = |action, field: &str, principal: serde_json::Value| -> Policy {
            serde_json::from_value(serde_json::json!({
                "name": "p", "namespace": &*server.namespace, "scope": "Namespace", "action": action,
                "rules": [[[{ field: [principal] }]]],
            }))
            .unwrap()
        };
        let exact = serde_json::json!({ "exact": spelling.principal() });
        let prefix = serde_json::json!({ "prefix": spelling.principal() });
        for (action, field, principal, same, other) in [
            ("Allow", "principals", &exact, "allowed", "not_allowed"),
            ("Allow", "principals", &prefix, "allowed", "not_allowed"),
            ("Deny", "principals", &exact, "denied_by_policy", "allowed"),
            ("Allow", "notPrincipals", &exact, "not_allowed", "allowed"),
            ("Deny", "notPrincipals", &exact, "allowed", "denied_by_policy"),
        ] {
            let mut snapshot = snapshot.clone();
            snapshot.insert_policy(policy(action, field, principal.clone()));
            for (peer, expected) in [(&own, same), (&domain("old"), same), (&domain("partner"), other)] {
                let found = reason(&snapshot, &id(peer));
                assert_eq!(found, expected, "{action} {field} {spelling}: {peer}");
            }
        }
    }
}

#[test]
fn a_policy_that_is_named_but_unknown_refuses() {
    let mut server = workload(&["10.0.0.2"]);
    server.authorization_policies.push("a/missing".parse().unwrap());
    let facts = facts(None, "10.0.0.1:4000", "10.0.0.2:80");
    let refusal = refusal(&Snapshot::default(), &Arc::new(server), &facts);
    assert_eq!(refusal, Refusal::UnknownPolicy("a/missing".parse().unwrap()));
}

#[test]
fn ipv4_in_ipv6_clothes_is_judged_and_dialled_as_ipv4() {
    let mut snapshot = Snapshot::default();
    let deny = r#"{"name":"d","namespace":"a","scope":"Namespace","action":"Deny","rules":[[[{"sourceIps":["10.0.0.0/8"]}]]]}"#;
    snapshot.insert_policy(serde_json::from_str(deny).unwrap());
    let server = Arc::new(workload(&["10.0.0.2"]));
    let denied = facts(None, "[::ffff:10.0.0.1]:4000", "[::ffff:10.0.0.2]:80");
    assert_eq!(refusal(&snapshot, &server, &denied).reason(), "denied_by_policy");
    let allowed = facts(None, "[::ffff:192.0.2.1]:4000", "[::ffff:10.0.0.2]:80");
    let allowed = authorize_inbound(&snapshot, &server, &allowed).decision.unwrap();
    let route = allowed.permit.into_route();
    assert_eq!(route.target, "10.0.0.2:80".parse().unwrap());
    assert_eq!(route.source, Some("192.0.2.1".parse::<IpAddr>().unwrap()));
}

#[test]
fn the_pods_own_address_is_never_its_source() {
    let server = Arc::new(workload(&["10.0.0.2"]));
    let own = facts(None, "10.0.0.2:4000", "10.0.0.2:80");
    let allowed = authorize_inbound(&Snapshot::default(), &server, &own).decision.unwrap();
    assert_eq!(allowed.permit.route().source, None, "a source equal to the destination cannot be bound");
}

/// A team that wants to turn strict or deny by default must see who would be refused, and refuse nobody yet.
#[test]
fn an_audit_tells_the_final_decision_and_changes_none() {
    let allow = r#"{"name":"only-x","namespace":"a","scope":"Namespace","action":"Allow","dryRun":true,"rules":[[[{"serviceAccounts":[{"namespace":"a","serviceAccount":"x"}]}]]]}"#;
    let deny_all = r#"{"name":"all","namespace":"a","scope":"Global","action":"Allow","dryRun":true}"#;
    let (x, y): (SpiffeId, SpiffeId) =
        ("spiffe://td/ns/a/sa/x".parse().unwrap(), "spiffe://td/ns/a/sa/y".parse().unwrap());
    let server = Arc::new(workload(&["10.0.0.2"]));
    let by_policy = Some("a/only-x".parse().unwrap());
    for (policies, settings_text, peer, expected) in [
        (&[][..], "{}", Some(&x), None),
        (&[allow], "{}", Some(&x), Some(Audit::Allowed { by: by_policy })),
        (&[allow], "{}", Some(&y), Some(Audit::Refused(Refusal::NotAllowed))),
        (&[deny_all], "{}", Some(&x), Some(Audit::Refused(Refusal::NotAllowed))),
        (&[], r#"{"audit": {"defaultDeny": true}}"#, Some(&x), Some(Audit::Refused(Refusal::DefaultDeny))),
        (&[], r#"{"audit": {"mtls": "strict"}}"#, None, Some(Audit::Refused(Refusal::PlaintextInStrict))),
        (&[], r#"{"audit": {"mtls": "strict"}}"#, Some(&x), Some(Audit::Allowed { by: None })),
        (
            &[],
            r#"{"namespaces": {"a": {"mtls": "permissive", "audit": {"mtls": "strict"}}}}"#,
            None,
            Some(Audit::Refused(Refusal::PlaintextInStrict)),
        ),
        (&[], r#"{"namespaces": {"b": {"audit": {"mtls": "strict"}}}}"#, None, None),
    ] {
        let mut snapshot = Snapshot::default();
        snapshot.set_settings(settings(settings_text));
        policies.iter().for_each(|policy| snapshot.insert_policy(serde_json::from_str(policy).unwrap()));
        let verdict = authorize_inbound(&snapshot, &server, &facts(peer, "10.0.0.1:4000", "10.0.0.2:80"));
        assert!(verdict.decision.is_ok(), "{settings_text}");
        assert_eq!(verdict.audit, expected, "{policies:?} {settings_text}");
    }
}

#[test]
fn whoever_allows_or_denies_is_named() {
    let mut snapshot = Snapshot::default();
    snapshot.set_settings(settings(r#"{"namespaces": {"a": {"defaultDeny": true}}}"#));
    let server = Arc::new(workload(&["10.0.0.2"]));
    let plain = facts(None, "10.0.0.1:4000", "10.0.0.2:80");
    assert_eq!(refusal(&snapshot, &server, &plain), Refusal::DefaultDeny);
    let allow = r#"{"name":"p","namespace":"a","scope":"Namespace","action":"Allow","rules":[[[{"destinationPorts":[80]}]]]}"#;
    snapshot.insert_policy(serde_json::from_str(allow).unwrap());
    let allowed = authorize_inbound(&snapshot, &server, &plain).decision.unwrap();
    assert_eq!(allowed.by, Some("a/p".parse().unwrap()));
    let other_port = facts(None, "10.0.0.1:4000", "10.0.0.2:81");
    assert_eq!(refusal(&snapshot, &server, &other_port), Refusal::NotAllowed);
}

#[test]
fn a_workload_that_is_disabled_accepts_plaintext_only() {
    let mut snapshot = Snapshot::default();
    snapshot.set_settings(settings(
        r#"{"namespaces": {"a": {"mtls": "strict", "workloads": {"server": {"ports": {"80": "disable"}}}}}}"#,
    ));
    let server = Arc::new(workload(&["10.0.0.2"]));
    let x: SpiffeId = "spiffe://td/ns/a/sa/x".parse().unwrap();
    let decide = |peer, port: u16| {
        let facts = facts(peer, "10.0.0.1:4000", &format!("10.0.0.2:{port}"));
        authorize_inbound(&snapshot, &server, &facts).decision.map(|_| ()).map_err(|refusal| refusal.reason())
    };
    assert_eq!(decide(None, 80), Ok(()));
    assert_eq!(decide(Some(&x), 80), Err("mtls_disabled"));
    assert_eq!(decide(None, 81), Err("plaintext_in_strict"));
    assert_eq!(decide(Some(&x), 81), Ok(()));
}

fn passthrough(to: &str, destination: Option<Workload>) -> Route {
    Route::Passthrough(PassthroughRoute {
        source_uid: WorkloadUid::new("client"),
        target: to.parse().unwrap(),
        destination: destination.map(Arc::new),
        service: None,
    })
}

#[test]
fn outbound_plaintext_to_a_proxy_port_of_the_mesh_is_refused_and_elsewhere_allowed() {
    let mut hbone = workload(&["10.0.0.2"]);
    hbone.protocol = Protocol::Hbone;
    let client = workload(&["10.0.0.1"]);
    let authorize = |route| authorize_outbound(&Snapshot::default(), &client, route);
    let refused = authorize(passthrough("10.0.0.2:15008", Some(hbone.clone()))).unwrap_err();
    assert_eq!(refused, Refusal::ReservedPort(15008));
    assert!(authorize(passthrough("10.0.0.2:80", Some(hbone))).is_ok());
    let foreign = authorize(passthrough("10.0.0.2:15008", None));
    assert!(foreign.is_ok(), "another mesh's proxy is none of our business");
}

#[test]
fn where_only_the_registry_is_open_strangers_are_refused_and_what_is_known_is_not() {
    let mut snapshot = Snapshot::default();
    let mut host = workload(&["192.0.2.1"]);
    host.network_mode = crate::workload::NetworkMode::HostNetwork;
    snapshot.insert_workload(host.clone());
    snapshot.set_settings(settings(r#"{"namespaces": {"a": {"egress": "registryOnly"}}}"#));
    let client = workload(&["10.0.0.1"]);
    let mut elsewhere = client.clone();
    elsewhere.namespace = "b".into();
    let reason = |client: &Workload, route| {
        authorize_outbound(&snapshot, client, route).map(|_| ()).map_err(|r| r.reason())
    };
    assert_eq!(reason(&client, passthrough("198.51.100.1:443", None)), Err("not_in_registry"));
    assert_eq!(reason(&elsewhere, passthrough("198.51.100.1:443", None)), Ok(()), "only of that namespace");
    assert_eq!(reason(&client, passthrough("10.0.0.3:443", Some(workload(&["10.0.0.3"])))), Ok(()));
    assert_eq!(reason(&client, passthrough("192.0.2.1:443", None)), Ok(()), "a node of the mesh");
    snapshot.remove_workload(&host.uid);
    let gone = authorize_outbound(&snapshot, &client, passthrough("192.0.2.1:443", None)).unwrap_err();
    assert_eq!(gone.reason(), "not_in_registry");
}
