//! What resources mean. Above all: what cannot be read of a policy lets nobody in.

use model::{
    OriginalDst, Snapshot, SpiffeId,
    authorize::{InboundFacts, authorize_inbound},
    workload::WaypointDestination,
};
use proto::security::{self, Action, Match, StringMatch, string_match::MatchType};

use super::resources::{
    addresses, bytes, of_policy, of_service, of_workload, policies, policy, protocol, resource, service, uid,
    workload,
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
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
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
    for resource in [
        of_policy(&unknown, "1"),
        resource(proto::AUTHORIZATION_TYPE, "default/p", "1", vec![0xff, 0xff, 0xff]),
    ] {
        let (mut protocol, mut snapshot) = mesh();
        let reply = protocol.receive(&policies("n-2", vec![resource]), &mut snapshot).reply.unwrap();
        assert!(reply.error_detail.is_some());
        assert_eq!(admitted(&snapshot, &[Some("client"), None]), [false; 2]);
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

/// Would break if a service whose waypoint cannot be read were served past it.
#[test]
fn a_service_whose_heaviest_waypoint_is_nowhere_is_refused() {
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
    let mut web = service("web", "10.96.0.1");
    web.weighted_waypoints = vec![proto::workload::WeightedWaypoint { destination: None, weight: 9 }];
    let reaction = protocol.receive(&addresses("n-1", vec![of_service(web, "1")]), &mut snapshot);
    let [(_, reason)] = &reaction.effect.rejected[..] else { panic!("{reaction:?}") };
    assert_eq!(reason, "a waypoint without destination");
    assert!(snapshot.services().next().is_none());
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
