//! Trust domains and their bundles: a peer is held against its own domain's roots and no other's, at both ends.

use std::sync::Arc;

use model::{SpiffeId, Trust, TrustDomains, svid::TrustBundle};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use ztunnel_tunnel::{ConnectHeaders, Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, Held, expired, id},
    mesh::{Client, Event, Server, permit_expecting},
};

const OLD: &str = "spiffe://old.example/ns/default/sa/";
const PARTNER: &str = "spiffe://partner.example/ns/default/sa/";
const STRANGER: &str = "spiffe://stranger.example/ns/default/sa/";

/// The mesh's own authority and its partner's. `old.example` is a name the mesh had before.
struct World {
    own: Authority,
    partner: Authority,
}

impl World {
    fn new() -> Self {
        Self { own: Authority::new("mesh"), partner: Authority::new("partner") }
    }

    fn trust(&self) -> Arc<Trust> {
        let name = |text: &str| text.parse().unwrap();
        let domains =
            TrustDomains::new(name("cluster.local"), [name("old.example")], [name("partner.example")]);
        let partner = self.partner.bundle("partner.example");
        Arc::new(Trust::new(Arc::new(domains), self.own.bundle("cluster.local"), [partner]))
    }

    /// An end of the mesh that uses this certificate as its own.
    fn tunnel(&self, held: Held) -> Tunnel<Certificates> {
        let certificates = Certificates::new([held]);
        certificates.believe(self.trust());
        Tunnel::new(TunnelSettings::default(), certificates)
    }
}

/// `client` dials, expecting `expected`; what each side makes of the other: a peer's identity, or the reason against it.
async fn meet(
    client: Tunnel<Certificates>,
    server: Tunnel<Certificates>,
    expected: SpiffeId,
) -> (String, String) {
    let mut server = Server::new(server).await;
    let client = Client::new(client);
    let permit = permit_expecting("client", "server", expected, server.address);
    let dialing = client.tunnel.dial(permit, ConnectHeaders::default(), client.connect());
    let accepting = async {
        match server.event().await {
            Event::Opened { peer, .. } => {
                // The client may still leave.
                let stream = match server.event().await {
                    Event::Request(request) => request.accept("").ok(),
                    _ => None,
                };
                (peer.to_string(), stream)
            }
            Event::Refused(error) => (error.reason().to_owned(), None),
            other => panic!("{other:?}"),
        }
    };
    let (dialed, (accepted, _stream)) = tokio::join!(dialing, accepting);
    (dialed.map_or_else(|error| error.reason().to_owned(), |dialed| dialed.peer.to_string()), accepted)
}

/// Fails if a federated peer is refused, or a root of one trust domain vouches for workloads of another.
#[tokio::test]
async fn a_client_is_held_against_the_bundle_of_its_own_trust_domain_alone() {
    let world = World::new();
    let ours = id("client").to_string();
    let [old, partner, stranger] = [OLD, PARTNER, STRANGER].map(|domain| format!("{domain}client"));
    for (authority, uri, reason) in [
        (&world.own, &ours, None),
        (&world.own, &old, None),
        (&world.partner, &partner, None),
        (&world.partner, &ours, Some("unknown_ca")),
        (&world.partner, &old, Some("unknown_ca")),
        (&world.own, &partner, Some("unknown_ca")),
        (&world.own, &stranger, Some("other_trust_domain")),
        (&world.partner, &stranger, Some("other_trust_domain")),
    ] {
        let client = authority.used_as(&id("client"), authority.leaf(&[uri], |_| {}));
        let server = world.own.svid(&id("server"));
        let (_, accepted) = meet(world.tunnel(client), world.tunnel(server), id("server")).await;
        assert_eq!(accepted, reason.unwrap_or(uri), "{uri}");
    }
}

#[tokio::test]
async fn a_server_is_held_against_the_bundle_of_its_own_trust_domain_alone() {
    let world = World::new();
    let ours = id("server").to_string();
    let [old, partner, stranger] = [OLD, PARTNER, STRANGER].map(|domain| format!("{domain}server"));
    for (authority, uri, expected, reason) in [
        (&world.own, &ours, &ours, None),
        (&world.partner, &partner, &partner, None),
        // By whatever name of the mesh the workload is known.
        (&world.own, &old, &ours, None),
        (&world.own, &ours, &old, None),
        (&world.partner, &partner, &ours, Some("peer_identity")),
        (&world.own, &ours, &partner, Some("peer_identity")),
        (&world.own, &partner, &partner, Some("unknown_ca")),
        (&world.partner, &ours, &ours, Some("unknown_ca")),
        (&world.partner, &old, &ours, Some("unknown_ca")),
        (&world.own, &stranger, &stranger, Some("peer_identity")),
    ] {
        let client = world.own.svid(&id("client"));
        let server = authority.used_as(&id("server"), authority.leaf(&[uri], |_| {}));
        let met = meet(world.tunnel(client), world.tunnel(server), expected.parse().unwrap());
        let (dialed, _) = met.await;
        assert_eq!(dialed, reason.unwrap_or(uri), "{uri} for {expected}");
    }
}

/// X509-SVID specification, sections 3.2, 4.1 and 4.3, and RFC 5280 for the rest: fails if whoever was given a certificate
/// for something else can make itself an authority.
#[tokio::test]
async fn what_stands_between_leaf_and_root_must_be_an_authority_of_that_trust_domain() {
    type Change = fn(&mut CertificateParams);
    let cases: [(&str, Change, Option<&str>); 9] = [
        ("as it should be", |_| {}, None),
        ("of the trust domain", |p| name(p, "spiffe://cluster.local"), None),
        ("of the name that the mesh had before", |p| name(p, "spiffe://old.example"), None),
        ("of another trust domain", |p| name(p, "spiffe://partner.example"), Some("bad_certificate")),
        ("a workload", |p| name(p, "spiffe://cluster.local/ns/default/sa/ca"), Some("bad_certificate")),
        ("no CA", |p| p.is_ca = IsCa::ExplicitNoCa, Some("bad_certificate")),
        ("no CA, without a word", |p| p.is_ca = IsCa::NoCa, Some("bad_certificate")),
        (
            "without keyCertSign",
            |p| p.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature],
            Some("bad_certificate"),
        ),
        ("expired", expired, Some("expired_certificate")),
    ];
    let world = World::new();
    for (what, change, reason) in cases {
        let between = world.own.below("between", change);
        let held = |name: &str| {
            let mut held = between.used_as(&id(name), between.leaf(&[&id(name).to_string()], |_| {}));
            held.svid.chain.push(between.root());
            held
        };
        let good = |name: &str| world.own.svid(&id(name));
        let (_, accepted) =
            meet(world.tunnel(held("client")), world.tunnel(good("server")), id("server")).await;
        assert_eq!(accepted, reason.unwrap_or(&id("client").to_string()), "a client's intermediate: {what}");
        let (dialed, _) =
            meet(world.tunnel(good("client")), world.tunnel(held("server")), id("server")).await;
        assert_eq!(dialed, reason.unwrap_or(&id("server").to_string()), "a server's intermediate: {what}");
    }
}

fn name(params: &mut CertificateParams, uri: &str) {
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
}

/// Fails if an authority whose path is limited to no further authority makes one all the same.
#[tokio::test]
async fn a_path_is_no_longer_than_its_authorities_allow() {
    let world = World::new();
    let last = world.own.below("last", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let beyond = last.below("beyond", |_| {});
    for (authority, chain, reason) in
        [(&last, vec![&last], None), (&beyond, vec![&beyond, &last], Some("bad_certificate"))]
    {
        let mut held = authority.used_as(&id("client"), authority.leaf(&[&id("client").to_string()], |_| {}));
        held.svid.chain.extend(chain.into_iter().map(Authority::root));
        let server = world.tunnel(world.own.svid(&id("server")));
        let (_, accepted) = meet(world.tunnel(held), server, id("server")).await;
        assert_eq!(accepted, reason.unwrap_or(&id("client").to_string()));
    }
}

/// Fails if a root that came or went counts only for certificates that are issued afterwards.
#[tokio::test]
async fn a_change_of_roots_is_in_force_at_the_next_handshake() {
    let (old, new) = (Authority::new("old root"), Authority::new("new root"));
    let bundle = |authorities: &[&Authority]| {
        let roots = authorities.iter().map(|authority| authority.root()).collect();
        Arc::new(Trust::alone(TrustBundle { trust_domain: "cluster.local".parse().unwrap(), roots }))
    };
    let certificates = Certificates::new([old.svid(&id("server"))]);
    let server = Tunnel::new(TunnelSettings::default(), Arc::clone(&certificates));
    for (trust, from_old, from_new) in [
        (bundle(&[&old]), None, Some("unknown_ca")),
        (bundle(&[&old, &new]), None, None),
        (bundle(&[&new]), Some("unknown_ca"), None),
    ] {
        certificates.believe(trust);
        for (authority, reason) in [(&old, from_old), (&new, from_new)] {
            let client = Certificates::new([authority.svid(&id("client"))]);
            client.believe(bundle(&[&old, &new]));
            let client = Tunnel::new(TunnelSettings::default(), client);
            let (_, accepted) = meet(client, server.clone(), id("server")).await;
            assert_eq!(accepted, reason.unwrap_or(&id("client").to_string()));
        }
    }
}
