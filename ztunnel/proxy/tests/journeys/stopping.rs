//! The end of a pod, and of a daemon.

use std::{io, io::ErrorKind, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    mesh::{Mesh, OUTSIDE, S1, at, uid},
    observed::{Observed, eventually},
};

/// A deleted pod must leave nothing: each task, socket and pooled connection keeps its namespace alive. And what is
/// cut must not look finished.
#[tokio::test]
async fn a_cut_ends_everything_of_the_pod_at_once() {
    let observed = Observed::start();
    let mut mesh = Mesh::new().await;
    let (mut client, mut server) = mesh.pair().await;
    let outside = mesh.net.listen(at(OUTSIDE, 80)).await;
    let mut passing = mesh.connect(at(OUTSIDE, 80)).await;
    let (mut outsider, _) = outside.accept().await.unwrap();
    mesh.net.swallow(at(OUTSIDE, 81));
    let mut pending = mesh.connect(at(OUTSIDE, 81)).await;
    eventually("three open", || (mesh.c1.ledgers.count_for(&uid("c1")) == 3).then_some(())).await;

    mesh.c1.stop.cut.cancel();
    timeout(Duration::from_secs(1), mesh.c1.serving.take().unwrap()).await.expect("serve returns").unwrap();
    assert_eq!(mesh.c1.ledgers.count_for(&uid("c1")), 0);
    for stream in [&mut client, &mut server, &mut passing, &mut outsider, &mut pending] {
        let read = timeout(Duration::from_secs(1), stream.read(&mut [0; 8])).await.expect("noticed");
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    observed.line(&[r#"reason="cancelled""#, r#"path="hbone""#]).await;
    eventually("s1 noticed", || mesh.s1.ledgers.live().is_empty().then_some(())).await;
}

/// The same at the other end: the tunnel's server side goes with its pod.
#[tokio::test]
async fn a_cut_of_the_destination_resets_its_clients() {
    let _observed = Observed::start();
    let mut mesh = Mesh::new().await;
    let (mut client, _server) = mesh.pair().await;
    mesh.s1.stop.cut.cancel();
    timeout(Duration::from_secs(1), mesh.s1.serving.take().unwrap()).await.expect("serve returns").unwrap();
    let read = timeout(Duration::from_secs(1), client.read(&mut [0; 8])).await.expect("noticed");
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A drain that cut connections, or turned new ones away before a successor took over, would make every upgrade an
/// outage.
#[tokio::test]
async fn a_drain_ends_nothing_and_refuses_nothing() {
    let _observed = Observed::start();
    let mesh = Mesh::new().await;
    let (mut client, mut server) = mesh.pair().await;
    mesh.s1.stop.drain.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(b"on").await.unwrap();
    server.read_exact(&mut [0; 2]).await.unwrap();
    // The peer was told to use another connection, and gets one.
    let (mut second, mut second_server) = mesh.pair().await;
    second.write_all(b"new").await.unwrap();
    second_server.read_exact(&mut [0; 3]).await.unwrap();
}

/// Out of descriptors for a moment must not mean deaf for ever.
#[tokio::test]
async fn failing_accepts_are_counted_and_do_not_end_the_listener() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    const EMFILE: i32 = 24;
    *mesh.c1.sockets.failing_accepts.lock().unwrap() =
        vec![io::Error::from_raw_os_error(EMFILE), ErrorKind::ConnectionAborted.into()];
    // The first connection wakes the pending accept; those after it meet the failures.
    for _ in 0..3 {
        let (mut client, mut server) = mesh.pair().await;
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
    }
    eventually("both counted", || (observed.metric("ztunnel_accept_failures_total", &[]) == 2).then_some(()))
        .await;
    observed.line(&["WARN", r#"reason="accept""#]).await;
    drop(mesh.net.listen(at(S1, 1)).await);
}
