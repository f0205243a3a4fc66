//! What resources mean. Above all: what cannot be read of a policy lets nobody in.

use model::{
    OriginalDst, Snapshot, SpiffeId,
    authorize::{InboundFacts, authorize_inbound},
    workload::WaypointDestination,
};
use proto::security::{self, Action, Match, StringMatch, string_match::MatchType};

use super::resources::{
    addresses, bytes, known, of_policy, of_root, of_service, of_workload, policies, policy, protocol,
    removal, resource, service, uid, workload,
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

fn gone(nonce: &str, name: &str) -> proto::discovery::DeltaDiscoveryResponse {
    let removed_resources = vec![name.to_owned()];
    proto::discovery::DeltaDiscoveryResponse { removed_resources, ..policies(nonce, Vec::new()) }
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
        // Of no namespace that could be another.
        (Some("istio-system"), "", false),
        (Some("istio-system"), "not/a", false),
    ] {
        let (mut protocol, mut snapshot) = mesh_of_root(root);
        let broken = unreadable(&format!("{namespace}/p"));
        protocol.receive(&policies("n-2", vec![broken]), &mut snapshot);
        assert_eq!(admitted(&snapshot, &[Some("client"), None]), [open; 2], "{root:?}, {namespace}");
        protocol.receive(&gone("n-3", &format!("{namespace}/p")), &mut snapshot);
        assert_eq!(admitted(&snapshot, &[Some("client"), None]), [true; 2], "{namespace}: it is gone");
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

/// Would break if a value of tomorrow were taken for the default: plaintext, or a workload that is well; or the workload for
/// none at all: an outsider gets plaintext too.
#[test]
fn nobody_is_sent_to_a_workload_that_cannot_be_used() {
    let sane = || workload("web", "10.96.0.1");
    let tunnel = proto::workload::ApplicationTunnel { protocol: 9, port: 0 };
    for (reason, told) in [
        ("unknown tunnel protocol 9", proto::workload::Workload { tunnel_protocol: 9, ..sane() }),
        ("unknown status 9", proto::workload::Workload { status: 9, ..sane() }),
        ("unknown network mode 9", proto::workload::Workload { network_mode: 9, ..sane() }),
        (
            "unknown protocol of an application's tunnel 9",
            proto::workload::Workload { application_tunnel: Some(tunnel), ..sane() },
        ),
        (
            "expected an address of 4 or 16 bytes, found 3",
            proto::workload::Workload { addresses: vec![vec![1; 3].into(), bytes("10.96.0.1")], ..sane() },
        ),
    ] {
        let (mut protocol, mut snapshot) = mesh();
        let bad = || of_workload(told.clone(), "1");
        let reaction = protocol.receive(&addresses("n-2", vec![bad()]), &mut snapshot);
        assert_eq!(reaction.effect.rejected, [(uid("web"), reason.to_owned())]);
        assert_eq!(reaction.effect.changed, 1, "{reason}: it is to be published");
        assert_eq!((asked(&snapshot), snapshot.workloads().count()), (Err("unreadable"), 1), "{reason}");
        assert_eq!(protocol.open()[0].initial_resource_versions[&uid("web")], "", "it is to be sent again");
        // A good version goes before it, and stays.
        protocol.receive(&addresses("n-3", vec![of_workload(sane(), "2")]), &mut snapshot);
        protocol.receive(&addresses("n-4", vec![bad()]), &mut snapshot);
        assert_eq!(asked(&snapshot), Ok(()), "{reason}");
        assert_eq!(protocol.open()[0].initial_resource_versions[&uid("web")], "2");
        protocol.receive(&removal("n-5", &[&uid("web")]), &mut snapshot);
        assert!(asked(&snapshot).is_ok() && snapshot.closed_by(&uid("web")).is_empty(), "it is gone");
    }
}

/// Would break if what cannot even be decoded were an outsider although its aliases say where it is; if a service that
/// others must not see kept them from their destinations; or if pods of a node's network closed the node.
#[test]
fn what_is_closed_for_a_resource_that_cannot_be_used_is_its_own() {
    let junk = |name: &str, aliases: &[&str]| proto::discovery::Resource {
        aliases: aliases.iter().map(ToString::to_string).collect(),
        ..resource(proto::ADDRESS_TYPE, name, "1", vec![0xff; 3])
    };
    let private = proto::workload::Service {
        visibility: proto::workload::service::Visibility::Namespace.into(),
        ip_families: 9,
        ..service("web", "10.96.0.1")
    };
    let elsewhere = proto::workload::Service { namespace: "elsewhere".to_owned(), ..private.clone() };
    let nameless = proto::workload::Service { hostname: String::new(), ..private.clone() };
    let of_node = proto::workload::Workload {
        network_mode: proto::workload::NetworkMode::HostNetwork.into(),
        status: 9,
        ..workload("web", "10.96.0.1")
    };
    for (what, resource, expected) in [
        ("its alias", junk(&uid("web"), &["/10.96.0.1"]), Err("unreadable")),
        ("its name", junk("/10.96.0.1", &[]), Err("unreadable")),
        ("no address", junk(&uid("web"), &["default/web.default.svc.cluster.local"]), Ok(())),
        ("another network's", junk(&uid("web"), &["far/10.96.0.1"]), Ok(())),
        ("a service of its namespace", of_service(private, "1"), Err("no_such_service_port")),
        ("a service of another's", of_service(elsewhere, "1"), Ok(())),
        ("a service without a name", of_service(nameless, "1"), Ok(())),
        ("a pod of the node's network", of_workload(of_node, "1"), Ok(())),
    ] {
        let (mut protocol, mut snapshot) = mesh();
        let reaction = protocol.receive(&addresses("n-2", vec![resource]), &mut snapshot);
        assert_eq!(reaction.effect.rejected.len(), 1, "{what}");
        assert_eq!(asked(&snapshot), expected, "{what}");
    }
}

/// Would break if an address in IPv6 clothes were one that nothing is ever looked up by: plaintext to a workload of the
/// mesh, a DENY that never holds; or if its length were taken for one of IPv4.
#[test]
fn an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address() {
    let (mut protocol, mut snapshot) = mesh();
    let mapped = workload("web", "::ffff:10.96.0.1");
    protocol.receive(&addresses("n-2", vec![of_workload(mapped, "1")]), &mut snapshot);
    assert_eq!(known(&snapshot)[1].workload_ips, ["10.96.0.1".parse::<std::net::IpAddr>().unwrap()]);
    for (length, is_understood) in [(104, true), (128, false), (95, false), (16, false), (129, false)] {
        let (mut protocol, mut snapshot) = mesh();
        let m = Match { source_ips: vec![block("::ffff:10.0.0.0", length)], ..Match::default() };
        let response = policies("n-2", vec![of_policy(&policy("p", Action::Deny, m), "1")]);
        let reply = protocol.receive(&response, &mut snapshot).reply.unwrap();
        // Denied by the block, or since what it says is not known; 128 is one address, of somebody else.
        assert_eq!(admitted(&snapshot, &[Some("client")]), [length == 128], "{length}");
        assert_eq!(reply.error_detail.is_none(), is_understood || length == 128, "{length}");
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
