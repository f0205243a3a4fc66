//! Nobody waits for ever, and nobody waits for somebody else's peer.

use std::{sync::Arc, time::Duration};

use model::{SpiffeId, Svid, SvidError, SvidSource, Trust};
use rustls::version;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use ztunnel_tunnel::{ConnectFn, ConnectHeaders, DialError, StreamError, Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, for_ten_minutes, id},
    clock::{Clock, settle},
    mesh::{Client, Mesh, Server, permit},
    raw::{self, Raw},
};

struct NeverAnswers;

impl SvidSource for NeverAnswers {
    async fn svid(&self, _: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        std::future::pending().await
    }

    fn trust(&self) -> Arc<Trust> {
        Authority::new("mesh").trust()
    }
}

async fn good_server() -> (Authority, Server) {
    let authority = Authority::new("mesh");
    let svids = Certificates::new([authority.svid(&id("server"))]);
    let server = Server::new(Tunnel::new(TunnelSettings::default(), svids)).await;
    (authority, server)
}

fn client_of(authority: &Authority) -> Client {
    let svids = Certificates::new([authority.svid(&id("client"))]);
    Client::new(Tunnel::new(TunnelSettings::default(), svids))
}

/// A slow loris holds a handshake open: it is cut, and meanwhile others are served.
#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_is_cut_and_delays_nobody() {
    let clock = Clock::stopped();
    let (authority, mut server) = good_server().await;
    let began = Instant::now();
    let _stalled = TcpStream::connect(server.address).await.unwrap();
    let address = server.address;
    let client = client_of(&authority);
    let accepting = async { server.request().await.accept("").unwrap() };
    let (dialed, _accepted) = tokio::join!(client.dial(address), accepting);
    dialed.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "the other had to wait");
    assert_eq!(clock.until(server.refusal()).await.reason(), "handshake_deadline");
    assert!(began.elapsed() >= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_sends_its_preface_is_cut() {
    let clock = Clock::stopped();
    let (authority, mut server) = good_server().await;
    let leaf = authority.leaf(&[&id("client").to_string()], |_| {});
    let config = raw::config(&version::TLS13, Some(leaf), &[b"h2"]);
    let _stream = raw::connect(server.address, config).await.unwrap();
    assert_eq!(clock.until(server.refusal()).await.reason(), "preface_deadline");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_cut() {
    let clock = Clock::stopped();
    let (authority, mut server) = good_server().await;
    let leaf = authority.leaf(&[&id("client").to_string()], |_| {});
    let config = raw::config(&version::TLS13, Some(leaf), &[b"h2"]);
    let began = Instant::now();
    let _raw = Raw::connect(server.address, config).await;
    assert_eq!(clock.until(server.ended()).await.0, "keepalive");
    assert!(began.elapsed() >= Duration::from_secs(30), "10 s to the PING and 20 s for its answer");
}

/// Its PINGs keep an idle connection, so the one before this fails for the right reason.
#[tokio::test(start_paused = true)]
async fn an_idle_stream_on_a_healthy_connection_stays() {
    let clock = Clock::stopped();
    let mut mesh = Mesh::new().await;
    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    clock.pass(Duration::from_secs(600)).await;
    near.sender.finish().unwrap();
    assert_eq!(far.receiver.receive().await.unwrap(), None);
}

/// The server's session stands still, as in a hung process: its kernel goes on to acknowledge TCP.
#[tokio::test(start_paused = true)]
async fn a_server_that_answers_no_ping_is_given_up() {
    let clock = Clock::stopped();
    let authority = Authority::new("mesh");
    let svids = Certificates::new([authority.svid(&id("server"))]);
    let tunnel = Tunnel::new(TunnelSettings::default(), svids);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = client_of(&authority);
    let serving = async {
        let mut session = tunnel.terminate(listener.accept().await.unwrap().0, &id("server")).await.unwrap();
        let far = session.next().await.unwrap().accept("").unwrap();
        // The answer leaves, then nothing moves any more.
        tokio::select! {
            _ = session.next() => panic!("nothing else was asked"),
            () = settle() => {}
        }
        (session, far)
    };
    let (dialed, _held) = tokio::join!(client.dial(address), serving);
    let mut near = dialed.unwrap().stream;
    assert!(matches!(clock.until(near.receiver.receive()).await, Err(StreamError::Connection(_))));
}

async fn dial_one<S: SvidSource>(tunnel: &Tunnel<S>, connect: ConnectFn) -> DialError {
    let permit = permit("client", "server", "127.0.0.1:15008".parse().unwrap());
    tunnel.dial(permit, ConnectHeaders::default(), connect).await.expect_err("nobody answers")
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_dial_has_its_deadline() {
    let clock = Clock::stopped();
    let never: ConnectFn = Box::new(|_| Box::pin(std::future::pending()));
    let nobody = Tunnel::new(TunnelSettings::default(), Arc::new(NeverAnswers));
    assert_eq!(clock.until(dial_one(&nobody, never)).await.reason(), "svid_deadline");

    let authority = Authority::new("mesh");
    let client = client_of(&authority);
    let never: ConnectFn = Box::new(|_| Box::pin(std::future::pending()));
    assert_eq!(clock.until(dial_one(&client.tunnel, never)).await.reason(), "connect_deadline");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = clock.until(client.dial(silent.local_addr().unwrap())).await.unwrap_err();
    assert_eq!(error.reason(), "handshake_deadline");

    let svids = Certificates::new([authority.svid(&id("server"))]);
    let mut server = Server::new(Tunnel::new(TunnelSettings::default(), svids)).await;
    let address = server.address;
    let holding = async { server.request().await };
    let (dialed, _request) = clock.until(async { tokio::join!(client.dial(address), holding) }).await;
    assert_eq!(dialed.unwrap_err().reason(), "answer_deadline");
}

/// A connection on which an answer failed to come is not given to the next.
#[tokio::test(start_paused = true)]
async fn an_unanswered_dial_spends_its_connection() {
    let clock = Clock::stopped();
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    let both = async { tokio::join!(client.dial(address), server.request()) };
    let (dialed, _request) = clock.until(both).await;
    assert_eq!(dialed.unwrap_err().reason(), "answer_deadline");
    let accepting = async { server.request().await.accept("").unwrap() };
    let (dialed, _accepted) = tokio::join!(client.dial(address), accepting);
    dialed.unwrap();
    assert_eq!(client.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_five_minutes() {
    let clock = Clock::stopped();
    let mut mesh = Mesh::new().await;
    let (dialed, far) = mesh.stream().await;
    let began = Instant::now();
    drop((dialed, far));
    assert_eq!(clock.until(mesh.server.ended()).await.0, "done");
    assert!(began.elapsed() >= Duration::from_secs(300));
    assert!(began.elapsed() <= Duration::from_secs(320));
    let (_dialed, _far) = mesh.stream().await;
    assert_eq!(mesh.client.connects(), 2);
}

/// What a crowd opened holds tables for a hundred streams each, at both ends. Fails if they stay for the five minutes, or if
/// none is left for the next stream.
#[tokio::test(start_paused = true)]
async fn of_idle_connections_to_one_peer_one_stays() {
    let clock = Clock::stopped();
    let one = TunnelSettings { streams_per_connection: 1, ..TunnelSettings::default() };
    let mut mesh = Mesh::with(one, TunnelSettings::default()).await;
    let streams = [mesh.stream().await, mesh.stream().await, mesh.stream().await];
    clock.pass(Duration::from_secs(60)).await;
    assert_eq!(mesh.client.tunnel.load().connections, 3, "one in use is no surplus");
    drop(streams);
    clock.pass(Duration::from_secs(25)).await;
    assert_eq!(mesh.client.tunnel.load().connections, 1);
    let _next = mesh.stream().await;
    assert_eq!(mesh.client.connects(), 3);
}

/// A proof of identity is no better than its certificate: streams that are open go on, new ones need a new proof.
#[tokio::test(start_paused = true)]
async fn no_stream_is_opened_by_an_expired_certificate() {
    let clock = Clock::stopped();
    for (server_expires, client_expires) in [(true, false), (false, true)] {
        let authority = Authority::new("mesh");
        let svid = |name: &str, expires: bool| {
            let identity = id(name);
            let change = if expires { for_ten_minutes } else { |_: &mut _| {} };
            authority.used_as(&identity, authority.leaf(&[&identity.to_string()], change))
        };
        let tunnel = |svid| Tunnel::new(TunnelSettings::default(), Certificates::new([svid]));
        let client = Client::new(tunnel(svid("client", client_expires)));
        let server = Server::new(tunnel(svid("server", server_expires))).await;
        let mut mesh = Mesh { client, server };
        let (first, mut far) = mesh.stream().await;
        let mut near = first.stream;
        clock.pass(Duration::from_secs(500)).await;
        let _second = mesh.stream().await;
        assert_eq!(mesh.client.connects(), 1);
        clock.pass(Duration::from_secs(130)).await;
        let _third = mesh.stream().await;
        assert_eq!(mesh.client.connects(), 2);
        near.sender.finish().unwrap();
        assert_eq!(far.receiver.receive().await.unwrap(), None);
    }
}
