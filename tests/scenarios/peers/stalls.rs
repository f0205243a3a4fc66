//! Peers that begin and do not go on. Each is cut at a deadline, and however many they are, they delay nobody.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use testkit::{
    Daemon, MeshPlan,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    client::{Peer, config, secure},
    failures,
    frames::PREFACE,
    good, inside, refusals, start_inside,
};
use crate::support::FAMILIES;

const MARKER: &[u8] = b"no time to lose";

/// How far a peer goes before it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Not a byte.
    Tcp,
    /// Half a ClientHello.
    Hello,
    /// A byte now and then, for longer than the deadline.
    Trickle,
    /// TLS is done.
    Tls,
    /// HTTP/2's preface is said, and no frame.
    Preface,
}

/// Goes there and waits to be cut; yields how long that took.
async fn stall(gateway: SocketAddr, config: Arc<ClientConfig>, step: Step) -> Duration {
    let started = Instant::now();
    // It may be cut before it gets there.
    let _ = go(gateway, config, step).await;
    started.elapsed()
}

async fn go(gateway: SocketAddr, config: Arc<ClientConfig>, step: Step) -> std::io::Result<()> {
    match step {
        Step::Tcp | Step::Hello | Step::Trickle => {
            let mut tcp = TcpStream::connect(gateway).await?;
            let hello = client_hello(gateway, config);
            match step {
                Step::Hello => tcp.write_all(&hello[..hello.len() / 2]).await?,
                Step::Trickle => trickle(&mut tcp, &hello).await?,
                _ => {}
            }
            end_of(tcp).await
        }
        Step::Tls => end_of(secure(gateway, config).await?).await,
        Step::Preface => {
            let mut tls = secure(gateway, config).await?;
            tls.write_all(PREFACE).await?;
            end_of(tls).await
        }
    }
}

pub(super) fn client_hello(gateway: SocketAddr, config: Arc<ClientConfig>) -> Vec<u8> {
    let mut hello = Vec::new();
    let name = ServerName::IpAddress(gateway.ip().into());
    ClientConnection::new(config, name).unwrap().write_tls(&mut hello).unwrap();
    hello
}

/// Until the end of the bytes or of the connection.
async fn trickle(tcp: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        tcp.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Reads until the other side ends it, however it does.
async fn end_of(mut stream: impl AsyncRead + Unpin) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// A PING goes out after ten seconds without frames, and its answer may take twenty.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Catches: a step of the handshake without a deadline.
#[test]
fn whoever_stalls_is_cut_at_the_deadline_of_that_step() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let mesh = MeshPlan::new(&["server"]).setting("handshakeDeadline", "2s").start().unwrap();
    let outside = &mesh.topology().outside;
    let steps = [
        (Step::Tcp, DEADLINE, "handshake_deadline"),
        (Step::Hello, DEADLINE, "handshake_deadline"),
        (Step::Trickle, DEADLINE, "handshake_deadline"),
        (Step::Tls, DEADLINE, "preface_deadline"),
        (Step::Preface, KEEPALIVE, ""),
    ];
    let stalling: Vec<_> = FAMILIES
        .into_iter()
        .flat_map(|family| steps.map(|step| (family, step)))
        .map(|(family, (step, deadline, _))| {
            let gateway = mesh.address("server", family, 15008);
            let config = config(good(&mesh, "client"));
            (step, deadline, start_inside(outside, move || stall(gateway, config, step)))
        })
        .collect();
    for (step, deadline, thread) in stalling {
        let took = thread.join().unwrap();
        println!("{step:?}: {took:?}");
        // Not earlier either: then it was something else.
        assert!((deadline..deadline + 15 * DEADLINE / 2).contains(&took), "{step:?} was cut after {took:?}");
    }
    for (reason, expected) in [("handshake_deadline", 3), ("preface_deadline", 1)] {
        let expected = expected * FAMILIES.len();
        assert_eq!(failures(mesh.daemon(1), reason), expected as f64, "{reason}");
        assert_eq!(refusals(mesh.daemon(1), reason, expected).len(), expected, "{reason}");
    }
}

/// Catches: a handshake that waits behind others, descriptors or memory that stallers use up.
#[test]
fn many_that_stall_delay_nobody() {
    const EACH: usize = 100;
    /// The daemon's own limit for one pod.
    const AT_ONCE: usize = 256;
    let deadline = Duration::from_secs(50);
    let plan = MeshPlan::new(&["client", "server"]).setting("handshakeDeadline", "50s");
    let mesh = plan.start().unwrap();
    let (daemon, outside) = (mesh.daemon(2), &mesh.topology().outside);
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let before = daemon.memory().unwrap();
    let stallers = FAMILIES.map(|family| {
        let gateway = mesh.address("server", family, 15008);
        let config = config(good(&mesh, "client"));
        start_inside(outside, move || async move {
            let steps = [Step::Tcp, Step::Hello, Step::Tls].into_iter().flat_map(|step| [step; EACH]);
            let stalling = steps.map(|step| stall(gateway, Arc::clone(&config), step));
            futures::future::join_all(stalling).await
        })
    });
    // Six hundred came, and no more than may be inside at once are: the oldest had to go.
    let crowd = 3 * EACH * FAMILIES.len();
    let evicted = || failures(daemon, "handshake_evicted");
    eventually("the oldest are cut", || (evicted() >= (crowd - AT_ONCE) as f64).then_some(()));
    let grown = daemon.memory().unwrap().saturating_sub(before);
    println!("{} KiB for {AT_ONCE} stalled handshakes", grown >> 10);
    assert!(grown < 64 << 20, "grown by {grown}");

    let started = Instant::now();
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8080);
        for _ in 0..5 {
            let config = config(good(&mesh, "client"));
            inside(outside, move || async move {
                let peer = Peer::connect(gateway, config).await;
                let mut stream = peer.connect_to(&target.to_string()).await.expect("200");
                assert_eq!(stream.exchange(MARKER).await.unwrap(), MARKER);
            });
        }
        let dial = Dial::to(target);
        assert_eq!(mesh.pod("client").run(move || dial.exchange(MARKER)).unwrap(), MARKER);
    }
    // Whoever has to wait for a staller waits for its deadline.
    assert!(started.elapsed() < deadline / 2, "{:?}", started.elapsed());
    assert_eq!(application.accepted(), 6 * FAMILIES.len());
    assert!(stallers.iter().all(|thread| !thread.is_finished()), "they stall still");
    assert_nobody_was_taken_for_a_staller(daemon, crowd, AT_ONCE);
    drop(mesh);
    for thread in stallers {
        thread.join().unwrap();
    }
}

fn assert_nobody_was_taken_for_a_staller(daemon: &Daemon, crowd: usize, at_once: usize) {
    let evicted = failures(daemon, "handshake_evicted");
    // The good ones push out a few more of the oldest.
    let expected = (crowd - at_once) as f64..=(crowd - at_once + 20) as f64;
    assert!(expected.contains(&evicted), "{evicted}");
}
