//! One pod's storm is not another's: beside it a quiet pod has no failure and hardly waits longer, and when it is over
//! nothing of it is left in the daemon.
//!
//! What is measured is the daemons' fairness, not the kernel's: on a machine with two processors the storm's own client
//! and server would take them from the quiet pod's client and server, daemon or not. So those of the storm give way
//! (nice 19), as a pod's share of the processor would make them; both daemons run like the quiet pod's programs.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::json;
use testkit::{
    Daemon, Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    rate::{Outcomes, Rate},
    server::{Behaviour, Server},
};

use crate::{
    peers::HandshakeStorm,
    support::{FAMILIES, last_logged},
};

const PORT: u16 = 8080;
/// Of the promise.
const MOST_TIMES: f64 = 3.0;
const SAMPLES: usize = 200;
const ROUNDS: usize = 3;
/// More than the daemon can serve here.
const A_SECOND: u32 = 4000;
/// Longer than anything takes here that does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

fn mesh() -> Mesh {
    let mesh = MeshPlan::new(&["quiet storm", "server target"]).start().unwrap();
    for pod in ["storm", "target"] {
        mesh.pod(pod).give_way().unwrap();
    }
    mesh.topology().outside.give_way().unwrap();
    mesh
}

/// A new connection with a request and its answer, again and again: the median of how long it took. Any failure fails.
fn median(mesh: &Mesh) -> Duration {
    let target = mesh.address("server", 0, PORT);
    let mut took = mesh.pod("quiet").run(move || {
        let sample = |_| {
            let started = Instant::now();
            assert_eq!(Dial::to(target).exchange(b"quiet").unwrap(), b"quiet");
            std::thread::sleep(Duration::from_millis(5));
            started.elapsed() - Duration::from_millis(5)
        };
        (0..SAMPLES).map(sample).collect::<Vec<_>>()
    });
    took.sort();
    took[took.len() / 2]
}

/// Measures alone and beside a storm, one right after the other: other work on the machine counts against the one or the other.
/// So what holds is the median of the rounds; failures of the quiet pod never are forgiven.
///
/// This can show that the whole daemon is fair: a lock that all wait for, a queue that all stand in, work of a storm's on a
/// thread that the quiet pod needs. It cannot show what turns add: with so many turns that nobody waits for one, it passes
/// too, as the storm's programs, not the daemon's steps, are what is slowest here. `turnstile::tests` shows that.
fn assert_fair<S>(mesh: &Mesh, what: &str, start: impl Fn() -> S, stop: impl Fn(S)) {
    let mut rounds = Vec::new();
    for _round in 0..ROUNDS {
        let alone = median(mesh);
        let storm = start();
        std::thread::sleep(Duration::from_millis(500));
        let beside = median(mesh);
        stop(storm);
        let times = beside.as_secs_f64() / alone.as_secs_f64();
        println!("{what}: alone {alone:?}, beside {beside:?}: {times:.2} times");
        rounds.push(times);
    }
    rounds.sort_by(f64::total_cmp);
    let times = rounds[ROUNDS / 2];
    assert!(
        times <= MOST_TIMES,
        "{what}: a quiet pod's connections take {times:.2} times as long: {rounds:?}"
    );
}

fn was_a_storm(outcomes: Result<Outcomes>) {
    let outcomes = outcomes.unwrap();
    println!("the storm: {outcomes:?}");
    assert!(outcomes.answered > 500, "that was no storm: {outcomes:?}");
}

/// Catches: a pod whose own storm of connections holds up its neighbours on the node, at either end.
#[test]
fn a_pod_that_storms_outward_does_not_starve_its_neighbour() {
    let mesh = mesh();
    let _servers =
        ["server", "target"].map(|pod| Server::start(mesh.pod(pod), PORT, Behaviour::Echo).unwrap());
    median(&mesh);
    let target = mesh.address("target", 0, PORT);
    assert_fair(
        &mesh,
        "outward",
        || Rate::start(mesh.pod("storm"), target, A_SECOND),
        |storm| was_a_storm(storm.stop()),
    );
}

/// Catches: strangers and peers who storm one pod and hold up another of the same node: with handshakes, which are work
/// for the daemon, and in plaintext.
#[test]
fn a_pod_that_is_stormed_does_not_starve_its_neighbour() {
    let mesh = mesh();
    let outside = &mesh.topology().outside;
    let _servers =
        ["server", "target"].map(|pod| Server::start(mesh.pod(pod), PORT, Behaviour::Echo).unwrap());
    median(&mesh);
    let gateway = mesh.address("target", 0, 15008);
    assert_fair(
        &mesh,
        "handshakes",
        || HandshakeStorm::start(&mesh, outside, gateway, 300),
        |storm| {
            let answered = storm.stop();
            println!("the storm: {answered} handshakes were answered");
            assert!(answered > 500, "that was no storm: {answered}");
        },
    );
    let target = mesh.address("target", 0, PORT);
    assert_fair(
        &mesh,
        "plaintext",
        || Rate::start(outside, target, A_SECOND),
        |storm| was_a_storm(storm.stop()),
    );
}

const STORM: usize = 20_000;
const WARM_UP: usize = 3_000;
const AT_ONCE: usize = 32;
/// What may be left of it in a daemon's memory: what the allocator keeps of it, and the metrics' growth.
const RESIDUE: u64 = 8 << 20;
/// What a daemon that has nothing to do may use of a processor: its watch over pods and files.
const IDLE: f64 = 0.05;

/// What a daemon holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    /// By the name of the limit.
    limited: Vec<(&'static str, u64)>,
}

fn held(daemon: &Daemon) -> Held {
    let used = |limit| daemon.metric("ztunnel_limit_used", &[("limit", limit)]).unwrap();
    let limits = ["handshakes", "sockets", "outbound_tunnels", "window_bytes", "turns"];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    let limited = limits.map(|limit| (limit, used(limit) as u64)).to_vec();
    Held { descriptors: daemon.descriptors().unwrap(), limited }
}

fn held_by_all(mesh: &Mesh) -> Vec<Held> {
    mesh.daemons().map(held).collect()
}

/// Nothing is open, and the tables say so.
fn is_calm(mesh: &Mesh) -> Option<()> {
    let calm = |daemon: &Daemon| daemon.connections().unwrap().is_empty();
    mesh.daemons().all(calm).then_some(())
}

fn processor_share(daemon: &Daemon) -> f64 {
    const WATCHED: Duration = Duration::from_secs(2);
    let before = daemon.processor_time().unwrap();
    std::thread::sleep(WATCHED);
    (daemon.processor_time().unwrap() - before).as_secs_f64() / WATCHED.as_secs_f64()
}

/// So many connections one after the other, a few at once, as fast as that goes. Each says something and hears it again.
fn talk(mesh: &Mesh, count: usize) {
    let targets: Vec<_> = FAMILIES
        .into_iter()
        .flat_map(|family| [PORT, PORT + 1].map(|port| mesh.address("server", family, port)))
        .collect();
    let talking: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let target = targets[number % targets.len()];
            mesh.pod("quiet").spawn(move || {
                for _ in 0..count.div_ceil(AT_ONCE) {
                    assert_eq!(
                        Dial::to(target).patience(PATIENCE).exchange(b"and again").unwrap(),
                        b"and again"
                    );
                }
            })
        })
        .collect();
    for thread in talking {
        thread.join().unwrap();
    }
}

/// Catches: memory, descriptors, tasks or places that are not given back when a connection ends.
#[test]
fn nothing_is_left_behind_by_twenty_thousand_connections() {
    let mesh = Mesh::start(&["quiet", "server"]).unwrap();
    let _servers =
        [PORT, PORT + 1].map(|port| Server::start(mesh.pod("server"), port, Behaviour::Echo).unwrap());
    talk(&mesh, WARM_UP);
    eventually("the warm-up is over", || is_calm(&mesh));
    let memory = |daemon: &Daemon| daemon.memory().unwrap();
    let (before, resident): (Vec<Held>, Vec<u64>) =
        (held_by_all(&mesh), mesh.daemons().map(memory).collect());
    let started = Instant::now();
    talk(&mesh, STORM);
    let took = started.elapsed();
    println!("{STORM} connections in {took:?}: {:.0} a second", STORM as f64 / took.as_secs_f64());
    eventually("all have ended", || is_calm(&mesh));
    // To ask is to have a connection, which may be counted.
    eventually("descriptors and places are given back", || {
        let now = held_by_all(&mesh);
        println!("{now:?}, before {before:?}");
        let same = |(now, before): (&Held, &Held)| {
            now.limited == before.limited && now.descriptors <= before.descriptors + 1
        };
        now.iter().zip(&before).all(same).then_some(())
    });
    eventually("memory is given back", || {
        let left = mesh.daemons().map(memory).zip(&resident).map(|(now, before)| now.saturating_sub(*before));
        let left: Vec<_> = left.collect();
        println!("left behind: {left:?} bytes of {resident:?}");
        left.iter().all(|&left| left <= RESIDUE).then_some(())
    });
    for daemon in mesh.daemons() {
        let share = processor_share(daemon);
        println!("{:.1} % of a processor", share * 100.0);
        assert!(share <= IDLE, "{:.1} % of a processor with nothing to do", share * 100.0);
    }
}

/// Catches: a limit that is not kept, that nobody hears of, or that hurts others than those who reach it.
#[test]
fn who_reaches_a_limit_is_refused_and_counted() {
    const EACH: usize = 8;
    let limits = json!({ "outboundConnectionsPerPod": EACH, "inboundConnectionsPerSource": EACH + 2 });
    let mesh = MeshPlan::new(&["quiet storm", "server"]).setting("limits", limits).start().unwrap();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let hits =
        |node, limit| mesh.daemon(node).metric("ztunnel_limit_hits_total", &[("limit", limit)]).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, PORT);
        let open = |from: &Place, count: usize| {
            let opened = from.run(move || (0..count).map(|_| opened(target)).collect::<Vec<_>>());
            opened.into_iter().partition::<Vec<_>, _>(io::Result::is_ok)
        };
        let (storming, refused) = open(mesh.pod("storm"), EACH + 3);
        assert_eq!((storming.len(), refused.len()), (EACH, 3));
        // Without a tunnel the source is the address.
        let (outside, refused) = open(&mesh.topology().outside, EACH + 5);
        assert_eq!((outside.len(), refused.len()), (EACH + 2, 3));
        let (quiet, refused) = open(mesh.pod("quiet"), EACH);
        assert_eq!((quiet.len(), refused.len()), (EACH, 0));
        let of = [("workload", "Kubernetes//Pod/default/storm")];
        assert_eq!(mesh.daemon(1).metric("ztunnel_pod_connections", &of).unwrap(), EACH as f64);
        let line = last_logged(mesh.daemon(1), "outbound", target);
        assert_eq!(line["reason"], "outbound_connections_per_pod", "{line}");
        drop((storming, outside, quiet));
        eventually("all have ended", || is_calm(&mesh));
    }
    assert_eq!(hits(1, "outbound_connections_per_pod"), 6.0);
    assert_eq!(hits(2, "inbound_connections_per_source"), 6.0);
}

/// A connection that was used, and is open.
fn opened(target: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = Dial::to(target).connect()?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// Catches: a data path that waits for whoever reads the log, and lines that are lost without a trace.
#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    const LINES: usize = 64;
    /// More than what waits in the daemon, and in a pipe.
    const CONNECTIONS: usize = 2_000;
    let plan = MeshPlan::new(&["quiet", "server"]).setting("limits", json!({ "waitingLogLines": LINES }));
    let mut mesh = plan.build().unwrap();
    mesh.start_daemon(2).unwrap();
    let pipe = mesh.directory().join("node1/daemon1.log");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    // Open, so that the daemon can write, and never read from.
    let unread = File::options().read(true).write(true).open(&pipe).unwrap();
    mesh.start_daemon(1).unwrap();
    let _servers =
        [PORT, PORT + 1].map(|port| Server::start(mesh.pod("server"), port, Behaviour::Echo).unwrap());
    talk(&mesh, CONNECTIONS);
    let dropped = mesh.daemon(1).metric("ztunnel_log_lines_dropped_total", &[]).unwrap();
    println!("{dropped} lines were dropped");
    assert!(dropped > 100.0, "{dropped}: the reader did not stall");
    assert!(mesh.daemon(1).is_ready());
    let mut daemon = mesh.take_daemon(1).unwrap();
    daemon.terminate().unwrap();
    // What waits is given a second to be written, and no more.
    daemon.wait(PATIENCE).unwrap();
    drop(unread);
}
