//! Many connections, much data, and readers that never read: nothing is lost, and what the daemons hold is bounded.

use std::{
    io::{self, ErrorKind, Write},
    net::SocketAddr,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use socket2::Socket;
use testkit::{
    Mesh, MeshPlan, Place,
    client::{Dial, reset},
    eventually, pattern,
    server::{Behaviour, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{FAMILIES, send};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What the tunnel's windows promise: a daemon receives at most so much that it cannot hand on, for each open stream
/// and for all of them together.
const WINDOW: u64 = 64 * KIB;
const GROWTH_BUDGET: u64 = 64 * MIB;
/// What may wait to be sent on one stream. It waits in buffers of which at most half is empty.
const SEND_BUFFER: u64 = 64 * KIB;
const BUFFER_OVERHEAD: u64 = 2;
/// What the allocator adds to what is held, in per cent.
const FRAGMENTATION: u64 = 25;

/// What an idle connection may cost a daemon, on average. Half of it is seen.
const IDLE: u64 = 16 * KIB;
/// What a daemon may keep of a crowd that is gone: caches, the counters of its metrics, the code that it took.
const RESIDUE: u64 = 12 * MIB;

/// Writers that got nothing written for this long are blocked.
const STANDSTILL: Duration = Duration::from_secs(1);
/// The kernel's socket buffers alone hold several of these.
const LEAST_TAKEN: u64 = 128 * KIB;
const MOST_TAKEN: u64 = 8 * MIB;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// On a small and busy machine many connections at once take their time; how long is not what is tested.
fn patient_mesh() -> Mesh {
    MeshPlan::new(&["client", "server"]).setting("connectDeadline", "60s").start().unwrap()
}

/// Both daemons' resident memory.
fn memory(mesh: &Mesh) -> [u64; 2] {
    [1, 2].map(|node| mesh.daemon(node).memory().unwrap())
}

fn peak(mesh: &Mesh) -> [u64; 2] {
    [1, 2].map(|node| mesh.daemon(node).peak_memory().unwrap())
}

fn open_connections(mesh: &Mesh) -> [usize; 2] {
    [1, 2].map(|node| mesh.daemon(node).connections().unwrap().len())
}

#[track_caller]
fn assert_at_most(what: &str, bytes: u64, bound: u64) {
    println!("{what}: {} KiB of {} KiB", bytes / KIB, bound / KIB);
    assert!(bytes <= bound, "{what}: {bytes} bytes, which is more than {bound}");
}

/// One echo over each family, so that what is made once is made.
fn warm_up(mesh: &Mesh, port: u16) {
    for family in FAMILIES {
        let dial = Dial::to(mesh.address("server", family, port));
        assert_eq!(mesh.pod("client").run(move || dial.exchange(b"x")).unwrap(), b"x");
    }
}

/// Catches: a proxy that reads on when its reader does not, one stalled stream that holds up the others of its
/// tunnel, an abort that does not get past what is stuck.
#[test]
fn streams_that_nobody_reads_hold_no_more_than_their_windows() {
    const EACH: usize = 500;
    const STREAMS: u64 = 2 * EACH as u64;
    let mesh = patient_mesh();
    let [client, server] = ["client", "server"].map(|name| mesh.pod(name));
    bound_kernel_buffers(&[client, server]);
    let held = Server::start(server, 8080, Behaviour::Hold).unwrap();
    let _echo = Server::start(server, 8081, Behaviour::Echo).unwrap();
    warm_up(&mesh, 8081);

    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let idle = targets.map(|target| client.run(move || open(target, EACH)));
    eventually("all are open", || (open_connections(&mesh) == [2 * EACH; 2]).then_some(()));
    let before = memory(&mesh);
    let stalling = idle.map(|sockets| client.spawn(move || stall(sockets)));
    let stalled = stalling.map(|thread| thread.join().unwrap());
    assert_eq!((held.accepted(), held.received()), (2 * EACH, 0));
    assert_eq!(open_connections(&mesh), [2 * EACH; 2]);

    let grown: Vec<u64> = before.into_iter().zip(peak(&mesh)).map(|(before, peak)| peak - before).collect();
    assert_at_most("held by the sending daemon", grown[0], STREAMS * SEND_BUFFER * BUFFER_OVERHEAD);
    let windows = STREAMS * WINDOW + GROWTH_BUDGET;
    assert_at_most("held by the receiving daemon", grown[1], windows * (100 + FRAGMENTATION) / 100);
    // Through the very tunnels whose other streams stand still.
    warm_up(&mesh, 8081);

    for socket in stalled.into_iter().flatten() {
        reset(socket.into()).unwrap();
    }
    eventually("aborted connections have ended", || (open_connections(&mesh) == [0; 2]).then_some(()));
}

/// A thousand connections with buffers of several MiB would be about the kernel's memory.
fn bound_kernel_buffers(places: &[&Place]) {
    for place in places {
        for name in ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"] {
            place.sysctl(name, "4096 65536 524288").unwrap();
        }
    }
}

fn open(target: SocketAddr, count: usize) -> Vec<Socket> {
    let sockets = (0..count).map(|_| Socket::from(Dial::to(target).connect().unwrap()));
    sockets.inspect(|socket| socket.set_nonblocking(true).unwrap()).collect()
}

/// Writes to all until none has taken anything for a while.
fn stall(mut sockets: Vec<Socket>) -> Vec<Socket> {
    let mut taken = vec![0; sockets.len()];
    let chunk = vec![0; 64 << 10];
    let mut moved = Instant::now();
    while moved.elapsed() < STANDSTILL {
        for (socket, taken) in sockets.iter_mut().zip(&mut taken) {
            while let Some(written) = write_some(socket, &chunk) {
                *taken += written;
                moved = Instant::now();
                assert!(*taken < MOST_TAKEN, "a writer whose reader does not read is not blocked");
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(taken.iter().all(|taken| *taken > LEAST_TAKEN), "too little for a test: {taken:?}");
    sockets
}

fn write_some(socket: &mut Socket, chunk: &[u8]) -> Option<u64> {
    match socket.write(chunk) {
        Ok(written) => Some(written as u64),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("a connection failed instead of waiting: {error}"),
    }
}

/// Catches: a limit that is too low, an answer that went to another connection, connections that are never forgotten,
/// memory that is never given back.
#[test]
fn two_thousand_connections_at_once_come_and_go() {
    const EACH: usize = 1000;
    let mesh = patient_mesh();
    let echo = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    warm_up(&mesh, 8080);
    let before = memory(&mesh);
    for _wave in 0..2 {
        let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
        let talking = targets.map(|target| talk_at_once(mesh.pod("client"), target, EACH));
        let open = talking.map(|thread| thread.join().unwrap().unwrap());
        assert_eq!(open_connections(&mesh), [2 * EACH; 2]);
        for (before, now) in before.into_iter().zip(memory(&mesh)) {
            assert_at_most("2,000 idle connections", now.saturating_sub(before), 2 * EACH as u64 * IDLE);
        }
        drop(open);
        eventually("all have ended", || (open_connections(&mesh) == [0; 2]).then_some(()));
        eventually("memory is given back", || {
            let left = before.into_iter().zip(memory(&mesh)).map(|(before, now)| now.saturating_sub(before));
            left.into_iter().all(|left| left <= RESIDUE).then_some(())
        });
    }
    let failed = |node| mesh.daemon(node).metric("istio_tcp_connections_failed_total", &[]).unwrap();
    assert_eq!(([1, 2].map(failed), echo.open()), ([0.0; 2], 0));
}

/// Opens all before any is closed, has each echo what no other says, and hands them back open.
fn talk_at_once(
    place: &Place,
    target: SocketAddr,
    count: usize,
) -> JoinHandle<io::Result<Vec<std::net::TcpStream>>> {
    place.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(try_join_all((0..count).map(|number| talk(target, number))))
    })
}

async fn talk(target: SocketAddr, number: usize) -> io::Result<std::net::TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    let said: Vec<u8> = format!("{target} {number} ").bytes().cycle().take(5000).collect();
    stream.write_all(&said).await?;
    let mut answer = vec![0; said.len()];
    stream.read_exact(&mut answer).await?;
    assert!(answer == said, "connection {number} got another's answer");
    stream.into_std()
}

/// Catches: a byte lost, repeated, changed or out of place in long transfers, and windows that grow without bound under them.
#[test]
fn large_transfers_arrive_intact_both_ways() {
    let mesh = patient_mesh();
    let before = memory(&mesh);
    for (family, length) in [(0, GIB), (1, 256 * MIB)] {
        let _check = Server::start(mesh.pod("server"), 8080, Behaviour::Check).unwrap();
        let _send = Server::start(mesh.pod("server"), 8081, Behaviour::Send(length)).unwrap();
        let dial = |port| Dial::to(mesh.address("server", family, port)).patience(PATIENCE);
        let (up, down) = (dial(8080), dial(8081));
        let sent = mesh.pod("client").spawn(move || send(&up, length));
        let received = mesh.pod("client").spawn(move || pattern::check(down.connect()?));
        assert_eq!(sent.join().unwrap().unwrap(), length.to_string());
        assert_eq!(received.join().unwrap().unwrap(), length);
    }
    // Two streams at a time, each as fast as it can be: the largest windows, and what is on its way out.
    for (before, peak) in before.into_iter().zip(peak(&mesh)) {
        assert_at_most("two transfers", peak - before, 2 * (MIB + SEND_BUFFER) + 32 * MIB);
    }
}
