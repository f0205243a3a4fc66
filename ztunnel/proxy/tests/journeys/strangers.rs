//! What comes to the tunnel's port and has proven nothing yet.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    mesh::{Mesh, OUTSIDE, Options},
    observed::{Observed, eventually},
};

const FAILURES: &str = "ztunnel_handshake_failures_total";

/// Garbage opens no ledger, costs one line, and is counted by reason.
#[tokio::test]
async fn what_is_not_tls_is_refused_and_counted() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    let mut stranger = mesh.s1.sockets.hbone(OUTSIDE).await;
    stranger.write_all(b"GET / HTTP/1.1\r\nhost: s1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(5), stranger.read_to_end(&mut answer)).await.expect("refused");
    observed.line(&["WARN", r#"reason="not_tls""#, "peer=10.0.9.9"]).await;
    assert_eq!(observed.metric(FAILURES, &[r#"reason="not_tls""#]), 1);
    assert!(mesh.s1.ledgers.live().is_empty());
}

/// Handshakes that stall fill no queue: the oldest make room, and an honest peer is served at once.
#[tokio::test]
async fn stalled_handshakes_delay_nobody() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.limits.handshakes_per_pod = 4;
    let mesh = Mesh::with(options).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(mesh.s1.sockets.hbone(OUTSIDE).await);
    }
    let evicted = [r#"reason="handshake_evicted""#];
    eventually("sixteen evicted", || (observed.metric(FAILURES, &evicted) == 16).then_some(())).await;
    let pair = timeout(Duration::from_secs(1), mesh.pair()).await.expect("served beside them");
    assert_eq!(observed.metric(FAILURES, &evicted), 17, "the honest one took the place of one more");
    drop((pair, stalled));
}

/// The log of a flood stays small; its size does not get lost.
#[tokio::test]
async fn a_flood_of_refusals_is_logged_at_a_bounded_rate() {
    let observed = Observed::start();
    let mesh = Mesh::new().await;
    for _ in 0..50 {
        let mut stranger = mesh.s1.sockets.hbone(OUTSIDE).await;
        stranger.write_all(b"garbage garbage garbage").await.unwrap();
    }
    let refused = [r#"reason="not_tls""#];
    eventually("all refused", || (observed.metric(FAILURES, &refused) == 50).then_some(())).await;
    let lines = observed.lines().iter().filter(|line| line.contains(refused[0])).count();
    assert_eq!(lines, 10);
}
