//! What resources mean. Above all: what cannot be read of a policy lets nobody in.

use model::{
    OriginalDst, Snapshot, SpiffeId,
    authorize::{InboundFacts, authorize_inbound},
    workload::WaypointDestination,
};
use proto::security::{self, Action, Match, StringMatch, string_match::MatchType};

use super::resources::{
    addresses, bytes, of_policy, of_root, of_service, of_workload, policies, policy, protocol, removal,
    resource, service, uid, workload,
};
use crate::xds::protocol::Protocol;

/// Whether each of these may connect to `server:8080`.
fn admitted(snapshot: &Snapshot, peers: &[Option<&str>]) -> Vec<bool> {
    let server = snapshot.workload(&model::WorkloadUid::new(&uid("server"))).unwrap();
    let facts = |peer: Option<&SpiffeId>| {
        let facts = InboundFacts {
            client: model::ClientAddr("10.0.0.1:40000".parse().unwrap()),
            peer,
            target: OriginalDst("10.0.0.2:8080".parse().unwrap()).0,
            mtls: None,
        };
        authorize_inbound(snapshot, server, &facts).decision.is_ok()
    };
    let identity =
        |name: &str| -> SpiffeId { format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap() };
    peers.iter().map(|peer| facts(peer.map(identity).as_ref())).collect()
}

fn mesh() -> (Protocol, Snapshot) {
    mesh_of_root(None)
}

fn mesh_of_root(root: Option<&str>) -> (Protocol, Snapshot) {
    let (mut protocol, mut snapshot) = (of_root(root), Snapshot::default());
    let server = of_workload(workload("server", "10.0.0.2"), "1");
    protocol.receive(&addresses("n-1", vec![server]), &mut snapshot);
    (protocol, snapshot)
}

fn exact(text: &str) -> StringMatch {
    StringMatch { match_type: Some(MatchType::Exact(text.to_owned())) }
}

fn of_principal(name: &str) -> Match {
    let principals = vec![exact(&format!("cluster.local/ns/default/sa/{name}"))];
    Match { principals, ..Match::default() }
}

fn block(ip: &str, length: u32) -> security::Address {
    security::Address { address: bytes(ip), length }
}

/// The field's own proxy drops the prefix and lets everybody in.
#[test]
fn a_policy_with_a_part_that_cannot_be_read_never_widens_access() {
    let everybody = [Some("client"), Some("other"), None];
    let bad = |m: Match| Match { source_ips: vec![block("10.0.0.0", 8), block("10.0.0.0", 77)], ..m };
    for (what, action, m, expected) in [
        ("an ALLOW of a bad block", Action::Allow, bad(Match::default()), [false; 3]),
        ("an ALLOW of somebody from a bad block", Action::Allow, bad(of_principal("client")), [false; 3]),
        ("a DENY of a bad block", Action::Deny, bad(Match::default()), [false; 3]),
        (
            "a DENY of somebody from a bad block",
            Action::Deny,
            bad(of_principal("client")),
            [false, true, true],
        ),
        (
            "a DENY of all but a bad block",
            Action::Deny,
            Match { not_source_ips: vec![block("10.0.0.0", 77)], ..Match::default() },
            [false; 3],
        ),
        (
            "a comparison of an unknown sort",
            Action::Allow,
            Match { principals: vec![StringMatch { match_type: None }], ..Match::default() },
            [false; 3],
        ),
        (
            "a port that is none",
            Action::Deny,
            Match { destination_ports: vec![70_000], ..Match::default() },
            [false; 3],
        ),
    ] {
        let (mut protocol, mut snapshot) = mesh();
        let response = policies("n-2", vec![of_policy(&policy("p", action, m), "1")]);
        let reaction = protocol.receive(&response, &mut snapshot);
        assert_eq!(reaction.effect.changed, 1, "{what}: it is to be published");
        let error = reaction.reply.unwrap().error_detail.unwrap();
        assert!(error.message.starts_with("default/p: "), "{what}: {}", error.message);
        assert_eq!(admitted(&snapshot, &everybody), expected, "{what}");
    }
}

#[test]
fn a_policy_of_which_nothing_can_be_read_closes_its_namespace() {
    let mut unknown = policy("p", Action::Allow, of_principal("client"));
    unknown.action = 7;
    for resource in [of_policy(&unknown, "1"), unreadable("default/p")] {
        let (mut protocol, mut snapshot) = mesh();
        let reply = protocol.receive(&policies("n-2", vec![resource]), &mut snapshot).reply.unwrap();
        assert!(reply.error_detail.is_some());
        assert_eq!(admitted(&snapshot, &[Some("client"), None]), [false; 2]);
    }
}

fn unreadable(name: &str) -> proto::discovery::Resource {
    resource(proto::AUTHORIZATION_TYPE, name, "1", vec![0xff, 0xff, 0xff])
}

/// Would break if one of the root namespace closed only its own, or anybody's broken policy the whole mesh.
#[test]
fn whom_a_policy_closes_that_cannot_be_read_follows_from_the_root_namespace() {
    for (root, namespace, open) in [
        (None, "elsewhere", false),
        (Some("elsewhere"), "elsewhere", false),
        (Some("istio-system"), "elsewhere", true),
        (Some("istio-system"), "default", false),
    ] {
        let (mut protocol, mut snapshot) = mesh_of_root(root);
        let broken = unreadable(&format!("{namespace}/p"));
        protocol.receive(&policies("n-2", vec![broken]), &mut snapshot);
        assert_eq!(admitted(&snapshot, &[Some("client"), None]), [open; 2], "{root:?}, {namespace}");
    }
}

/// Would break if a policy of an unknown scope were taken for one of its namespace: where an ALLOW is not meant to apply it
/// would let in, where a DENY is meant to apply it would not.
#[test]
fn a_policy_of_an_unknown_scope_lets_nobody_in_anywhere() {
    let both = [Some("client"), Some("other")];
    for (action, namespace, expected) in [
        (Action::Allow, "default", [false, false]),
        (Action::Allow, "elsewhere", [false, false]),
        (Action::Deny, "default", [false, true]),
        (Action::Deny, "elsewhere", [false, true]),
    ] {
        let (mut protocol, mut snapshot) = mesh();
        let allow = policy("a", Action::Allow, of_principal("other"));
        let mut odd = policy("p", action, of_principal("client"));
        (odd.scope, odd.namespace) = (7, namespace.to_owned());
        let mut all = vec![of_policy(&odd, "1")];
        if action == Action::Deny {
            all.push(of_policy(&allow, "1"));
        }
        let reply = protocol.receive(&policies("n-2", all), &mut snapshot).reply.unwrap();
        let told = reply.error_detail.unwrap().message;
        assert!(told.ends_with("unknown scope 7"), "{told}");
        assert_eq!(admitted(&snapshot, &both), expected, "{action:?} of {namespace}");
    }
}

/// The last good version is what the control plane believes to be in force until it hears otherwise.
#[test]
fn the_last_good_version_of_a_policy_stays_in_force() {
    let (mut protocol, mut snapshot) = mesh();
    let good = of_policy(&policy("p", Action::Allow, of_principal("client")), "1");
    protocol.receive(&policies("n-2", vec![good]), &mut snapshot);
    let bad = Match { source_ips: vec![block("10.0.0.0", 77)], ..of_principal("other") };
    protocol.receive(&policies("n-3", vec![of_policy(&policy("p", Action::Allow, bad), "2")]), &mut snapshot);
    assert_eq!(admitted(&snapshot, &[Some("client"), Some("other")]), [true, false]);
    assert_eq!(protocol.open()[1].initial_resource_versions["default/p"], "1");
}

/// How a control plane says that mutual TLS is required.
#[test]
fn strict_mutual_tls_arrives_as_a_policy() {
    let (mut protocol, mut snapshot) = mesh();
    let presence = StringMatch { match_type: Some(MatchType::Presence(security::Presence {})) };
    let m = Match { not_principals: vec![presence], ..Match::default() };
    let strict = of_policy(&policy("strict", Action::Deny, m), "1");
    protocol.receive(&policies("n-2", vec![strict]), &mut snapshot);
    assert_eq!(admitted(&snapshot, &[Some("client"), None]), [true, false]);
}

#[test]
fn workloads_and_services_keep_what_they_say() {
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
    let mut told = workload("server", "10.0.0.2");
    told.trust_domain.clear();
    told.service_account.clear();
    told.capacity = Some(7);
    told.authorization_policies = vec!["default/p".to_owned()];
    let ports = vec![proto::workload::Port { service_port: 80, target_port: 9090, ..Default::default() }];
    let membership =
        ("default/web.default.svc.cluster.local".to_owned(), proto::workload::PortList { ports });
    told.services = [membership].into();
    let mut web = service("web", "10.96.0.1");
    web.addresses[0].length = Some(24);
    web.visibility = 9;
    let vouched = "spiffe://cluster.local/ns/default/sa/vouched";
    web.subject_alt_names = vec!["web.example.com".to_owned(), vouched.to_owned()];
    let through = |name: &str, weight| proto::workload::WeightedWaypoint {
        destination: Some(proto::workload::GatewayAddress {
            destination: Some(proto::workload::gateway_address::Destination::Hostname(
                proto::workload::NamespacedHostname { namespace: "default".into(), hostname: name.into() },
            )),
            hbone_mtls_port: 0,
        }),
        weight,
    };
    web.weighted_waypoints = vec![through("light", 1), through("heavy", 9)];
    let sent = vec![of_workload(told, "1"), of_service(web, "1")];
    let reply = protocol.receive(&addresses("n", sent), &mut snapshot).reply.unwrap();
    assert_eq!(reply.error_detail, None);
    let server = snapshot.workload(&model::WorkloadUid::new(&uid("server"))).unwrap();
    assert_eq!(server.identity.to_string(), "spiffe://cluster.local/ns/default/sa/default");
    assert_eq!((server.capacity, server.protocol), (7, model::workload::Protocol::Hbone));
    assert_eq!(server.authorization_policies[0].to_string(), "default/p");
    let key = "default/web.default.svc.cluster.local".parse().unwrap();
    assert_eq!(server.services.get(&key).unwrap().get(&80), Some(&9090));
    let web = snapshot.service(&key).unwrap();
    assert_eq!(web.vips[0].to_string(), "/10.96.0.0/24");
    assert_eq!(web.visibility, model::service::Visibility::Namespace, "of an unknown sort: to fewer");
    assert_eq!(
        web.subject_alt_names,
        [vouched.parse::<SpiffeId>().unwrap()],
        "a name of DNS vouches for nobody"
    );
    let waypoint = web.waypoint.as_ref().unwrap();
    assert_eq!(waypoint.hbone_mtls_port, 15008);
    let expected = WaypointDestination::Hostname("default/heavy".parse().unwrap());
    assert_eq!(waypoint.destination, expected, "never past all of them");
}

/// Would break if a value of tomorrow were taken for the default: plaintext, or a workload that is well.
#[test]
fn a_workload_of_an_unknown_sort_is_refused() {
    let sane = || workload("server", "10.0.0.2");
    for (reason, told) in [
        ("unknown tunnel protocol 9", proto::workload::Workload { tunnel_protocol: 9, ..sane() }),
        ("unknown status 9", proto::workload::Workload { status: 9, ..sane() }),
        ("unknown network mode 9", proto::workload::Workload { network_mode: 9, ..sane() }),
    ] {
        let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
        let reaction = protocol.receive(&addresses("n-1", vec![of_workload(told, "1")]), &mut snapshot);
        assert_eq!(reaction.effect.rejected, [(uid("server"), reason.to_owned())]);
        assert!(snapshot.workloads().next().is_none());
    }
}

/// Would break if a service of tomorrow were taken for an ordinary one, or for none: its addresses would be an outsider's.
#[test]
fn a_service_that_cannot_be_used_refuses_who_asks_for_its_addresses() {
    let sane = || service("web", "10.96.0.1");
    let balancing = |change: fn(&mut proto::workload::LoadBalancing)| {
        let mut told = proto::workload::LoadBalancing::default();
        change(&mut told);
        proto::workload::Service { load_balancing: Some(told), ..sane() }
    };
    let nowhere = proto::workload::WeightedWaypoint { destination: None, weight: 9 };
    for (reason, told) in [
        (
            "a waypoint without destination",
            proto::workload::Service { weighted_waypoints: vec![nowhere], ..sane() },
        ),
        (
            "expected service ports from 1 to 65535, found 0",
            proto::workload::Service { ports: vec![Default::default()], ..sane() },
        ),
        ("unknown IP families 9", proto::workload::Service { ip_families: 9, ..sane() }),
        ("unknown load balancing mode 9", balancing(|told| told.mode = 9)),
        ("unknown routing preference 9", balancing(|told| told.routing_preference = vec![1, 9])),
        ("unknown health policy 9", balancing(|told| told.health_policy = 9)),
    ] {
        let (mut protocol, mut snapshot) = mesh();
        let name = "default/web.default.svc.cluster.local";
        let reaction =
            protocol.receive(&addresses("n-2", vec![of_service(told.clone(), "1")]), &mut snapshot);
        assert_eq!(reaction.effect.rejected, [(name.to_owned(), reason.to_owned())]);
        assert_eq!(asked(&snapshot), Err("no_such_service_port"), "{reason}");
        assert_eq!(protocol.open()[0].initial_resource_versions[name], "", "it is to be sent again");
        // A good version goes before it, and stays.
        protocol.receive(&addresses("n-3", vec![of_service(sane(), "2")]), &mut snapshot);
        protocol.receive(&addresses("n-4", vec![of_service(told, "3")]), &mut snapshot);
        assert_eq!(asked(&snapshot), Err("no_healthy_endpoint"), "{reason}");
        assert_eq!(protocol.open()[0].initial_resource_versions[name], "2");
        protocol.receive(&removal("n-5", &[name]), &mut snapshot);
        assert!(asked(&snapshot).is_ok(), "it is gone");
    }
}

/// What becomes of a connection to `web`.
fn asked(snapshot: &Snapshot) -> Result<(), &'static str> {
    let source = snapshot.workload(&model::WorkloadUid::new(&uid("server"))).unwrap();
    let destination = OriginalDst("10.96.0.1:80".parse().unwrap());
    let resolved = model::resolve::resolve(snapshot, source, destination, &model::resolve::Choice::default());
    resolved.map(drop).map_err(|refusal| refusal.reason())
}

/// A field of the number, with text in it.
fn newer(number: u8, mut message: Vec<u8>) -> Vec<u8> {
    message.extend([number << 3 | 2, 2, b'h', b'i']);
    message
}

/// `message` as the field of the number.
fn within(number: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, u8::try_from(message.len()).unwrap()];
    bytes.extend(message);
    bytes
}

/// Fails if a restriction that is newer than this daemon is taken for none: an ALLOW would let in whom it keeps out, a
/// DENY would never hold.
#[test]
fn fields_that_are_not_known_never_widen_access() {
    let everybody = [Some("client"), Some("other"), None];
    let client = within(1, b"cluster.local/ns/default/sa/client");
    let principal = |value: &[u8]| within(3, value);
    let rule = |m: &[u8]| within(1, &within(2, m));
    let whole = |rule: &[u8]| within(5, rule);
    let known = principal(&client);
    let only_client = [false, true, true];
    let cases = [
        ("nothing", whole(&rule(&known)), [true, false, false], only_client),
        ("Match", whole(&rule(&newer(14, known.clone()))), [false; 3], only_client),
        ("a Match of nothing else", whole(&rule(&newer(14, Vec::new()))), [false; 3], [false; 3]),
        ("Rule", whole(&newer(2, rule(&known))), [false; 3], only_client),
        ("Clause", whole(&within(1, &newer(3, within(2, &known)))), [false; 3], [false; 3]),
        ("a value", whole(&rule(&principal(&newer(5, client)))), [false; 3], [false; 3]),
        ("Authorization", newer(8, whole(&rule(&known))), [false; 3], only_client),
        ("an Authorization of nothing else", newer(8, Vec::new()), [false; 3], [false; 3]),
        (
            "a group",
            [&whole(&rule(&known))[..], &[14 << 3 | 3, 14 << 3 | 4]].concat(),
            [false; 3],
            [false; 3],
        ),
    ];
    for (what, rules, allowed, not_denied) in cases {
        for (action, expected) in [(Action::Allow, allowed), (Action::Deny, not_denied)] {
            let (mut protocol, mut snapshot) = mesh();
            let mut head = policy("p", action, Match::default());
            head.rules.clear();
            let mut resource = of_policy(&head, "1");
            let any = resource.resource.as_mut().unwrap();
            any.value = [&any.value[..], &rules[..]].concat().into();
            protocol.receive(&policies("n", vec![resource]), &mut snapshot);
            assert_eq!(admitted(&snapshot, &everybody), expected, "{action:?}: {what}");
        }
    }
}

/// Fails if one of which only the name is known is left out: it may deny somebody.
#[test]
fn a_policy_of_which_only_the_name_is_known_lets_nobody_in_anywhere() {
    let good = of_policy(&policy("p", Action::Deny, of_principal("client")), "1");
    let bodiless = proto::discovery::Resource { resource: None, ..good.clone() };
    let mut mistyped = good.clone();
    mistyped.resource.as_mut().unwrap().type_url = "type.googleapis.com/other".to_owned();
    let misnamed = proto::discovery::Resource { name: "istio-system/other".to_owned(), ..good };
    for resource in [bodiless, mistyped, misnamed] {
        let (mut protocol, mut snapshot) = mesh();
        let what = format!("{resource:?}");
        protocol.receive(&policies("n", vec![resource]), &mut snapshot);
        assert_eq!(admitted(&snapshot, &[Some("client"), Some("other"), None]), [false; 3], "{what}");
    }
}
