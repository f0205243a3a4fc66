//! Who shares a connection with whom, and that nobody suffers from it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use h2::Reason;
use model::WorkloadUid;
use rustls::{ServerConfig, crypto::aws_lc_rs, version};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;
use ztunnel_tunnel::{
    ConnectFn, ConnectHeaders, DialError, StreamError, Tunnel, TunnelSettings, TunnelStream,
};

use crate::{
    authority::{Authority, Certificates, id},
    clock::settle,
    mesh::{Client, Event, Mesh, Server, permit},
};

async fn accept_all(server: &mut Server, count: usize) -> Vec<TunnelStream> {
    let mut accepted = Vec::new();
    for _ in 0..count {
        accepted.push(server.request().await.accept("").unwrap());
    }
    accepted
}

#[tokio::test]
async fn dials_at_the_same_time_share_one_connection() {
    let Mesh { client, mut server } = Mesh::new().await;
    let dials = join_all((0..50).map(|_| client.dial(server.address)));
    let address = server.address;
    let (dialed, _accepted) = tokio::join!(dials, accept_all(&mut server, 50));
    assert!(dialed.iter().all(Result::is_ok));
    let (again, _accepted) = tokio::join!(client.dial(address), accept_all(&mut server, 1));
    again.unwrap();
    assert_eq!(client.connects(), 1);
}

#[tokio::test]
async fn the_101st_stream_opens_a_second_connection() {
    let Mesh { client, mut server } = Mesh::new().await;
    let dials = join_all((0..101).map(|_| client.dial(server.address)));
    let (dialed, accepted) = tokio::join!(dials, accept_all(&mut server, 101));
    assert!(dialed.iter().all(Result::is_ok));
    assert_eq!(client.connects(), 2);
    assert_eq!(client.tunnel.load().full_outbound, 1, "that the limit was reached is not told");
    // Places are given back.
    drop((dialed, accepted));
    let dials = join_all((0..100).map(|_| client.dial(server.address)));
    let (dialed, _accepted) = tokio::join!(dials, accept_all(&mut server, 100));
    assert!(dialed.iter().all(Result::is_ok));
    assert_eq!(client.connects(), 2);
}

/// The peer's MAX_CONCURRENT_STREAMS counts as well. Istio's proxy would let the second dial wait.
#[tokio::test]
async fn a_peer_that_allows_one_stream_gets_a_connection_for_each() {
    let one = TunnelSettings { inbound_streams: 1, ..TunnelSettings::default() };
    let mut mesh = Mesh::with(TunnelSettings::default(), one).await;
    let _first = mesh.stream().await;
    let _second = mesh.stream().await;
    assert_eq!(mesh.client.connects(), 2);
}

#[tokio::test]
async fn a_slow_peer_does_not_delay_another() {
    let Mesh { client, mut server } = Mesh::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = client.dial(silent.local_addr().unwrap());
    let quick = async {
        let address = server.address;
        let (dialed, _accepted) = tokio::join!(client.dial(address), accept_all(&mut server, 1));
        dialed.unwrap();
    };
    tokio::select! {
        _ = slow => panic!("a silent peer answered"),
        () = quick => {}
    }
}

#[tokio::test]
async fn a_dialer_that_goes_away_does_not_take_the_connection_along() {
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    let gate = Arc::new(Notify::new());
    let open = Arc::clone(&gate);
    let gated: ConnectFn = Box::new(move |address| {
        Box::pin(async move {
            open.notified().await;
            TcpStream::connect(address).await.map(Into::into)
        })
    });
    let first = client.tunnel.dial(permit("client", "server", address), ConnectHeaders::default(), gated);
    let mut first = Box::pin(first);
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(client.dial(address));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    gate.notify_one();
    let (dialed, _accepted) = tokio::join!(second, accept_all(&mut server, 1));
    dialed.unwrap();
    assert_eq!(client.connects(), 0, "the second shares what the first began");
}

#[tokio::test]
async fn a_failed_attempt_fails_all_who_wait_and_nobody_after() {
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    let failing = || -> ConnectFn {
        Box::new(|_| Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) }))
    };
    let dial =
        || client.tunnel.dial(permit("client", "server", address), ConnectHeaders::default(), failing());
    for failed in join_all([dial(), dial()]).await {
        assert_eq!(failed.unwrap_err().reason(), "connect");
    }
    let (dialed, _accepted) = tokio::join!(client.dial(address), accept_all(&mut server, 1));
    dialed.unwrap();
}

#[tokio::test]
async fn after_a_goaway_the_next_dial_has_a_new_connection() {
    let mut mesh = Mesh::new().await;
    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    mesh.server.drain.notify_one();
    // A round trip on the old stream: the GOAWAY is there.
    far.sender.send(Bytes::from_static(b"draining")).await.unwrap();
    near.receiver.receive().await.unwrap();
    let _new = mesh.stream().await;
    assert_eq!(mesh.client.connects(), 2);
    near.sender.send(Bytes::from_static(b"old stream still works")).await.unwrap();
    assert!(far.receiver.receive().await.unwrap().is_some());
}

/// A busy pair of nodes has several connections, and a peer that is upgraded drains all of them at once.
#[tokio::test]
async fn goaways_on_all_connections_fail_no_dial() {
    let one = TunnelSettings { streams_per_connection: 1, ..TunnelSettings::default() };
    let mut mesh = Mesh::with(one, TunnelSettings::default()).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(mesh.stream().await);
    }
    mesh.server.drain.notify_waiters();
    for (near, far) in &mut streams {
        // A round trip on the old stream: the GOAWAY is there.
        far.sender.send(Bytes::from_static(b"draining")).await.unwrap();
        near.stream.receiver.receive().await.unwrap();
        // Room for one stream, if the connection took any.
        near.stream.sender.finish().unwrap();
        assert_eq!(far.receiver.receive().await.unwrap(), None);
    }
    let (near, far): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
    // The dialer's places are free; the listener holds its own, so the connections stand.
    drop(near);
    let Mesh { client, mut server } = mesh;
    let address = server.address;
    let accepting = async {
        let _far = server.request().await.accept("").unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        dialed = client.dial(address) => drop(dialed.unwrap()),
        () = accepting => {}
    }
    assert_eq!(client.connects(), 4);
    drop(far);
}

/// A pod was replaced by another with its address: what is pooled is dead, and nobody has noticed.
#[tokio::test]
async fn a_dead_connection_is_replaced_within_the_dial() {
    let authority = Authority::new("mesh");
    let tunnel =
        || Tunnel::new(TunnelSettings::default(), Certificates::new([authority.svid(&id("server"))]));
    let client = client_of(&authority);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let mut session =
            tunnel().terminate(listener.accept().await.unwrap().0, &id("server")).await.unwrap();
        let far = session.next().await.unwrap().accept("").unwrap();
        tokio::select! {
            _ = session.next() => panic!("nothing else was asked"),
            () = settle() => {}
        }
        (session, far)
    };
    let (dialed, session) = tokio::join!(client.dial(address), serving);
    dialed.unwrap();
    // The RST is under way when the next dial begins.
    drop(session);
    let serving = async {
        let mut session =
            tunnel().terminate(listener.accept().await.unwrap().0, &id("server")).await.unwrap();
        let far = session.next().await.unwrap().accept("").unwrap();
        tokio::select! {
            _ = session.next() => panic!("nothing else was asked"),
            () = settle() => {}
        }
        (session, far)
    };
    let (dialed, _session) = tokio::join!(client.dial(address), serving);
    dialed.unwrap();
    assert_eq!(client.connects(), 2);
}

fn client_of(authority: &Authority) -> Client {
    Client::new(Tunnel::new(TunnelSettings::default(), Certificates::new([authority.svid(&id("client"))])))
}

/// A server that takes one stream on each connection and refuses the others unprocessed, without having said so.
async fn refusing_server(authority: &Authority) -> std::net::SocketAddr {
    let leaf = authority.leaf(&[&id("server").to_string()], |_| {});
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.certificate], leaf.key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(tcp).await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tls).await.unwrap();
                let mut taken = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if taken.is_empty() {
                        let answer = http::Response::new(());
                        taken.push((request, respond.send_response(answer, false).unwrap(), respond));
                    } else {
                        respond.send_reset(Reason::REFUSED_STREAM);
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_stream_refused_unprocessed_is_tried_on_a_new_connection() {
    let authority = Authority::new("mesh");
    let client = client_of(&authority);
    let address = refusing_server(&authority).await;
    let _first = client.dial(address).await.unwrap();
    let _second = client.dial(address).await.unwrap();
    assert_eq!(client.connects(), 2);
}

/// Fails if another pod's streams are cut too, or if the dead pod's go on.
#[tokio::test]
async fn retiring_a_pod_ends_its_connections_only() {
    let authority = Authority::new("mesh");
    let svids = Certificates::new([authority.svid(&id("client")), authority.svid(&id("other"))]);
    let tunnel = Tunnel::new(TunnelSettings::default(), svids);
    let client = Client::new(tunnel.clone());
    let mut server = Server::new(Tunnel::new(
        TunnelSettings::default(),
        Certificates::new([authority.svid(&id("server"))]),
    ))
    .await;
    let address = server.address;
    let other = tunnel.dial(permit("other", "server", address), ConnectHeaders::default(), client.connect());
    let (gone, stays, accepted) = tokio::join!(client.dial(address), other, accept_all(&mut server, 2));
    let (mut gone, mut stays) = (gone.unwrap().stream, stays.unwrap().stream);
    assert_eq!(client.connects(), 2, "two pods share no connection");
    tunnel.retire(&WorkloadUid::new("client"));
    assert!(matches!(gone.receiver.receive().await, Err(StreamError::Connection(_))));
    stays.sender.send(Bytes::from_static(b"fine")).await.unwrap();
    let mut received = 0;
    for mut stream in accepted {
        received += usize::from(matches!(stream.receiver.receive().await, Ok(Some(_))));
    }
    assert_eq!(received, 1);
}

#[tokio::test]
async fn retiring_a_pod_frees_those_who_wait_for_its_connection() {
    let Mesh { client, .. } = Mesh::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut dial = Box::pin(client.dial(silent.local_addr().unwrap()));
    assert!(futures::poll!(&mut dial).is_pending());
    client.tunnel.retire(&WorkloadUid::new("client"));
    assert!(matches!(dial.await, Err(DialError::Retired)));
}

#[tokio::test]
async fn a_draining_pool_opens_nothing_and_cuts_nothing() {
    let mut mesh = Mesh::new().await;
    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    mesh.client.tunnel.drain();
    assert!(matches!(mesh.client.dial(mesh.server.address).await, Err(DialError::Draining)));
    near.sender.send(Bytes::from_static(b"still here")).await.unwrap();
    assert!(far.receiver.receive().await.unwrap().is_some());
    near.sender.finish().unwrap();
    far.sender.finish().unwrap();
    assert_eq!(near.receiver.receive().await.unwrap(), None);
    drop((near, far));
    assert_eq!(mesh.server.ended().await.0, "done");
}

#[tokio::test]
async fn the_pool_is_bounded() {
    let one = TunnelSettings { pool_connections: 1, ..TunnelSettings::default() };
    let mut mesh = Mesh::with(one, TunnelSettings::default()).await;
    let _stream = mesh.stream().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = mesh.client.dial(silent.local_addr().unwrap()).await.unwrap_err();
    assert!(matches!(error, DialError::PoolFull));
}

/// The identity expected belongs to the connection: one that expects less must not serve one that expects more.
#[tokio::test]
async fn another_expectation_is_another_connection() {
    let mut mesh = Mesh::new().await;
    let _stream = mesh.stream().await;
    let other = permit("client", "other", mesh.server.address);
    let dialed = mesh.client.tunnel.dial(other, ConnectHeaders::default(), mesh.client.connect()).await;
    assert!(matches!(dialed, Err(DialError::PeerIdentity { .. })));
    assert!(matches!(mesh.server.event().await, Event::Opened { .. } | Event::Refused(_)));
}
