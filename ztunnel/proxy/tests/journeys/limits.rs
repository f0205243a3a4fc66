//! What becomes of those who reach a limit.

use std::{
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tunnel::Lane;

use crate::{
    mesh::{C1, Mesh, Node, OUTSIDE, Options, S1, at, ip, uid},
    observed::{Observed, eventually},
};

const HITS: &str = "ztunnel_limit_hits_total";

/// Each stream has a tunnel of its own.
fn one_stream_per_tunnel() -> Options {
    let mut options = Options::default();
    options.tunnels.streams_per_connection = 1;
    options
}

/// Two connections that stand, and a third that is refused.
async fn two_and_one_too_many(mesh: &Mesh) -> Vec<(TcpStream, TcpStream)> {
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let mut standing = Vec::new();
    for _ in 0..2 {
        let mut client = mesh.connect(at(S1, 8080)).await;
        let mut server = timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap().0;
        client.write_all(b"?").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'?');
        standing.push((client, server));
    }
    let mut refused = mesh.connect(at(S1, 8080)).await;
    let ended = timeout(Duration::from_secs(5), refused.read_u8()).await.expect("it is refused");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    standing
}

/// If tunnels were not counted by their peer, one with a good certificate could hold as many windows as it likes.
#[tokio::test]
async fn a_peer_has_but_so_many_tunnels() {
    let observed = Observed::start();
    let mut options = one_stream_per_tunnel();
    options.settings.limits.inbound_tunnels_per_source = 2;
    let mesh = Mesh::with(options).await;
    let mut standing = two_and_one_too_many(&mesh).await;
    assert!(observed.metric(HITS, &[r#"limit="inbound_tunnels_per_source""#]) >= 1);
    observed.line(&["WARN", r#"reason="inbound_tunnels_per_source""#, C1]).await;
    let told = mesh.s1.ledgers.refusals().list(SystemTime::now());
    assert!(told.iter().any(|it| it.reason == "inbound_tunnels_per_source"), "{told:?}");
    // Those that stand go on, and what they leave can be used again.
    standing.pop();
    let freed = || mesh.s1.ledgers.count_for(&uid("s1")) == 1;
    eventually("one has ended", || freed().then_some(())).await;
    let _pair = timeout(Duration::from_secs(5), mesh.pair()).await.expect("there is room again");
}

/// If a pod's tunnels were only counted together with all others', it could leave none to them.
#[tokio::test]
async fn a_pod_has_but_so_many_tunnels() {
    let observed = Observed::start();
    let mut options = one_stream_per_tunnel();
    options.tunnels.pool_connections_per_source = 2;
    let mesh = Mesh::with(options).await;
    let _standing = two_and_one_too_many(&mesh).await;
    observed.line(&[r#"direction="outbound""#, r#"reason="source_pool_full""#]).await;
    assert_eq!(observed.metric(HITS, &[r#"limit="source_pool_full""#]), 1);
}

/// If streams were opened without regard to what they may hold together, memory would have no bound. Here is room for
/// three, of which one identity may have two.
#[tokio::test]
async fn windows_together_have_but_so_many_bytes() {
    let observed = Observed::start();
    let mut options = Options::default();
    let windows = &mut options.tunnels.windows;
    let of_stream = usize::try_from(windows.initial).unwrap() + tunnel::SEND_BUFFER;
    let needed = windows.growth_budget + 3 * of_stream;
    windows.total = needed + needed / 15 + 16;
    assert_eq!(windows.streams(), 3);
    let mesh = Mesh::with(options).await;
    let standing = two_and_one_too_many(&mesh).await;
    observed.line(&[r#"direction="outbound""#, r#"reason="window_budget""#]).await;
    assert_eq!(observed.metric(HITS, &[r#"limit="window_budget""#]), 1);
    drop(standing);
    eventually("all have ended", || (mesh.c1.ledgers.count() + mesh.s1.ledgers.count() == 0).then_some(()))
        .await;
    let _pair = timeout(Duration::from_secs(5), mesh.pair()).await.expect("there is room again");
}

/// If what is being made had no bound, a pod that connects to what does not answer could fill the daemon's memory.
#[tokio::test]
async fn a_pod_makes_but_so_many_connections_at_once() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.limits.pending_per_pod = 2;
    options.settings.connect_deadline = Duration::from_millis(500);
    let mesh = Mesh::with(options).await;
    mesh.net.swallow(at(OUTSIDE, 80));
    let _hanging = [mesh.connect(at(OUTSIDE, 80)).await, mesh.connect(at(OUTSIDE, 80)).await];
    eventually("both are being made", || (mesh.c1.ledgers.count() == 2).then_some(())).await;
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let _waiting = mesh.connect(at(S1, 8080)).await;
    assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err(), "it does not wait");
    assert!(observed.metric(HITS, &[r#"limit="pending_per_pod""#]) >= 1);
    timeout(Duration::from_secs(5), listener.accept()).await.expect("once the others have failed").unwrap();
}

/// If one source could have all of these places, it could keep everybody else from a pod whose application takes nothing.
#[tokio::test]
async fn one_source_has_half_of_what_a_pod_makes_at_once() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.limits.pending_per_pod = 4;
    let mesh = Mesh::with(options).await;
    mesh.net.swallow(at(S1, 8080));
    let mut hanging = Vec::new();
    for made in 1..=2 {
        hanging.push(mesh.connect_in_clear(at(S1, 8080)).await);
        eventually("it is being made", || (mesh.s1.ledgers.count() == made).then_some(())).await;
    }
    let mut refused = mesh.connect_in_clear(at(S1, 8080)).await;
    let ended = timeout(Duration::from_secs(5), refused.read_u8()).await.expect("it is refused");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    observed.line(&[r#"direction="inbound""#, r#"reason="pending_per_source""#]).await;
    assert_eq!(observed.metric(HITS, &[r#"limit="pending_per_source""#]), 1);

    let listener = mesh.net.listen(at(S1, 8081)).await;
    let _other = mesh.connect_in_clear_as("10.0.9.7", at(S1, 8081)).await;
    timeout(Duration::from_secs(5), listener.accept()).await.expect("there is room for others").unwrap();
    drop(hanging);
}

/// If a step of making a connection took no turn, a storm could still get in everybody's way there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_connection_is_made_out_of_turn() {
    let mut options = Options::default();
    options.tunnels.turns = 1;
    let mesh = Mesh::with(options).await;
    let listener = mesh.net.listen(at(S1, 8080)).await;
    for holder in [&mesh.c1, &mesh.s1] {
        let turn = take_the_turn(holder).await;
        let _client = mesh.connect(at(S1, 8080)).await;
        assert!(timeout(Duration::from_millis(200), listener.accept()).await.is_err(), "out of turn");
        drop(turn);
        timeout(Duration::from_secs(5), listener.accept()).await.expect("in its turn").unwrap();
        // The next needs a tunnel, and with it handshakes, again.
        mesh.c1.tunnel.retire(&uid("c1"));
        eventually("it has ended", || (mesh.s1.ledgers.count() == 0).then_some(())).await;
    }
}

/// Held until the sender is dropped.
async fn take_the_turn(node: &Node) -> mpsc::Sender<()> {
    let (hold, held) = mpsc::channel::<()>();
    let turnstile = node.tunnel.turnstile().clone();
    let lane = Lane { pod: uid("another"), source: ip(C1) };
    let taken = turnstile.clone();
    let until_dropped = async move { assert!(held.recv().is_err(), "nothing is sent") };
    tokio::spawn(async move { taken.pass(lane, until_dropped).await });
    eventually("the turn is taken", || (turnstile.in_use() == (1, 1)).then_some(())).await;
    hold
}

/// Behind SNAT all clients are one address. Where that is known and said, what is too much at once waits, and is not reset.
#[tokio::test]
async fn where_all_clients_are_one_source_the_excess_waits() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.limits.pending_per_pod = 2;
    options.settings.limits.pending_per_source_percent = 100;
    options.settings.connect_deadline = Duration::from_millis(500);
    let mesh = Mesh::with(options).await;
    mesh.net.swallow(at(S1, 8080));
    let _hanging = [mesh.connect_in_clear(at(S1, 8080)).await, mesh.connect_in_clear(at(S1, 8080)).await];
    eventually("both are being made", || (mesh.s1.ledgers.count() == 2).then_some(())).await;
    let listener = mesh.net.listen(at(S1, 8081)).await;
    let _waiting = mesh.connect_in_clear(at(S1, 8081)).await;
    timeout(Duration::from_secs(5), listener.accept()).await.expect("once the others have failed").unwrap();
    assert_eq!(observed.metric(HITS, &[r#"limit="pending_per_source""#]), 0);
}

/// If a listener accepted without regard to the pace that is set, a storm would come in as fast as it likes.
#[tokio::test]
async fn a_listener_accepts_at_its_pace() {
    let observed = Observed::start();
    let mut options = Options::default();
    options.settings.limits.accepts_per_second = 2;
    options.settings.limits.accept_burst = 1;
    let mesh = Mesh::with(options).await;
    let listener = mesh.net.listen(at(OUTSIDE, 80)).await;
    let started = Instant::now();
    let mut standing = Vec::new();
    for _ in 0..3 {
        standing.push(mesh.connect(at(OUTSIDE, 80)).await);
        standing.push(timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap().0);
    }
    assert!(started.elapsed() >= Duration::from_millis(950), "three within {:?}", started.elapsed());
    assert!(observed.metric(HITS, &[r#"limit="accepts_per_second""#]) >= 1);
}

/// If one pod could have all sockets, those of its node would have none.
#[tokio::test]
async fn a_pod_has_a_part_of_the_sockets_and_its_neighbour_another() {
    let observed = Observed::start();
    let mut options = Options { one_node: true, ..Options::default() };
    // Four: two connections out of the mesh.
    options.settings.limits.sockets = 100;
    options.settings.limits.pod_sockets_percent = 4;
    let mesh = Mesh::with(options).await;
    let outside = mesh.net.listen(at(OUTSIDE, 80)).await;
    let mut standing = Vec::new();
    for _ in 0..2 {
        let client = mesh.connect(at(OUTSIDE, 80)).await;
        standing.push((client, timeout(Duration::from_secs(5), outside.accept()).await.unwrap().unwrap()));
    }
    let _waiting = mesh.connect(at(OUTSIDE, 80)).await;
    assert!(timeout(Duration::from_millis(200), outside.accept()).await.is_err(), "beyond its part");
    assert!(observed.metric("ztunnel_connections_limited_total", &[]) >= 1);
    let listener = mesh.net.listen(at(S1, 8080)).await;
    let _neighbours = mesh.connect_in_clear(at(S1, 8080)).await;
    timeout(Duration::from_secs(5), listener.accept()).await.expect("the neighbour has its own").unwrap();
    standing.pop();
    timeout(Duration::from_secs(5), outside.accept()).await.expect("there is room again").unwrap();
}
