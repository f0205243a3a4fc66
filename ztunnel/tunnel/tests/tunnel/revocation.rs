//! Certificates that are revoked before, while and after connections stand on them.

use std::sync::Arc;

use model::{Revoked, Svid, revocation::RevocationList};
use x509_parser::prelude::{FromDer, X509Certificate};
use ztunnel_tunnel::{StreamError, Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, id},
    mesh::{Client, Server},
};

/// Both ends, and the lists that revoke the certificate of each.
struct Ends {
    client: Client,
    client_revoked: Arc<Revoked>,
    server: Server,
    server_tunnel: Tunnel<Certificates>,
    server_revoked: Arc<Revoked>,
}

fn revoking(svid: &Svid) -> Arc<Revoked> {
    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    let list = RevocationList::new(
        [svid.identity.trust_domain().clone()],
        leaf.issuer().as_raw(),
        [leaf.raw_serial()],
    );
    Arc::new([Arc::new(list)].into_iter().collect())
}

async fn ends() -> Ends {
    let authority = Authority::new("mesh");
    let (client, server) = (authority.svid(&id("client")), authority.svid(&id("server")));
    let (client_revoked, server_revoked) = (revoking(&client.svid), revoking(&server.svid));
    let server_tunnel = Tunnel::new(TunnelSettings::default(), Certificates::new([server]));
    let client = Client::new(Tunnel::new(TunnelSettings::default(), Certificates::new([client])));
    let server = Server::new(server_tunnel.clone()).await;
    Ends { client, client_revoked, server, server_tunnel, server_revoked }
}

/// Fails if a revoked client is let in, or if either end does not say why it was not.
#[tokio::test]
async fn a_revoked_client_is_refused_and_told() {
    let Ends { client, client_revoked, mut server, server_tunnel, .. } = ends().await;
    server_tunnel.revoke(&client_revoked);
    let address = server.address;
    let (refusal, dialed) = tokio::join!(server.refusal(), client.dial(address));
    assert_eq!(refusal.reason(), "certificate_revoked");
    assert_eq!(dialed.unwrap_err().reason(), "certificate_revoked");
    server_tunnel.revoke(&Arc::default());
    let accepting = async { server.request().await.accept("").unwrap() };
    let (dialed, _accepted) = tokio::join!(client.dial(address), accepting);
    assert_eq!(dialed.unwrap().peer, id("server"), "what is no longer revoked is let in again");
}

/// Fails if a client goes on to talk to a server whose certificate is revoked.
#[tokio::test]
async fn a_revoked_server_is_refused_and_told() {
    let Ends { client, mut server, server_revoked, .. } = ends().await;
    client.tunnel.revoke(&server_revoked);
    let address = server.address;
    let (refusal, dialed) = tokio::join!(server.refusal(), client.dial(address));
    assert_eq!(dialed.unwrap_err().reason(), "certificate_revoked");
    assert_eq!(refusal.reason(), "certificate_revoked");
}

/// Fails if an open connection outlives the certificate it stands on, at whichever end the list is, and whichever of
/// both certificates it is; or if its streams do not know why they end.
#[tokio::test]
async fn connections_end_with_their_certificates() {
    for at_client in [true, false] {
        for of_client in [true, false] {
            let Ends { client, client_revoked, mut server, server_tunnel, server_revoked } = ends().await;
            let address = server.address;
            let accepting = async { server.request().await.accept("").unwrap() };
            let (dialed, mut far) = tokio::join!(client.dial(address), accepting);
            let mut near = dialed.unwrap().stream;
            let tunnel = if at_client { &client.tunnel } else { &server_tunnel };
            tunnel.revoke(if of_client { &client_revoked } else { &server_revoked });
            let (near, far) = tokio::join!(near.receiver.receive(), far.receiver.receive());
            let here = if at_client { near.as_ref() } else { far.as_ref() }.unwrap_err();
            assert!(matches!(here, StreamError::Revoked), "{here:?}, {at_client} {of_client}");
            assert_eq!(here.reason(), "certificate_revoked");
            assert!(near.is_err() && far.is_err());
            if !at_client {
                assert_eq!(server.ended().await.0, "certificate_revoked");
            }
            let again = client.dial(address).await.expect_err("a pooled connection was used again");
            // A server that knows its own certificate to be revoked hangs up: no alert says that.
            let expected = if at_client || of_client { "certificate_revoked" } else { "http2" };
            assert_eq!(again.reason(), expected, "{at_client} {of_client}");
        }
    }
}
