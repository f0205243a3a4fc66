//! Trust domains and their bundles: a peer is held against its own domain's roots and no other's, at both ends.

use std::sync::Arc;

use model::{SpiffeId, Trust, TrustDomains, svid::TrustBundle};
use ztunnel_tunnel::{ConnectHeaders, Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, Held, id},
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
