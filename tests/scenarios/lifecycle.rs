//! Daemons that die, hang, come back and are replaced. What a pod chose holds meanwhile.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use testkit::{
    Mesh, MeshPlan, Place,
    capture::{Capture, Keep},
    client::Dial,
    eventually,
    rate::Rate,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    support::{FAMILIES, flood_routes, last_logged, logged},
};

const MARKER: &[u8] = b"nobody may read this on the wire";

fn echo(from: &Place, target: SocketAddr) -> std::io::Result<()> {
    from.run(move || Dial::to(target).exchange(MARKER)).map(drop)
}

/// A pod that fails closed and one that fails open, and a server in the mesh.
fn both_modes() -> MeshPlan {
    MeshPlan::new(&["closed open", "server"]).pod("open", |pod| pod.fail_open = true)
}

/// Catches: any moment of a daemon's death or start in which a fail-closed pod sends plaintext.
#[test]
fn a_fail_closed_pod_never_sends_plaintext_while_its_daemon_dies_and_starts() {
    let mut mesh = both_modes().start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let closed = mesh.pod("closed").place.clone();
    let own = mesh.pod("closed").ips();
    let capture = Capture::start(&closed, "eth0", Keep::Syns).unwrap();
    let rates = FAMILIES.map(|family| Rate::start(&closed, mesh.address("server", family, 8080), 250));
    for _ in 0..5 {
        sleep(Duration::from_millis(400));
        mesh.take_daemon(1).unwrap().kill().unwrap();
        sleep(Duration::from_millis(200));
        mesh.start_daemon(1).unwrap();
    }
    sleep(Duration::from_millis(400));
    for rate in rates {
        let outcomes = rate.stop().unwrap();
        assert!(outcomes.answered > 100, "too little went through to prove anything: {outcomes:?}");
        let refused = outcomes.errors.get("ECONNREFUSED").copied().unwrap_or_default();
        assert!(refused > 100, "the daemon was not away: {outcomes:?}");
    }
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    assert!(recording.segments.iter().any(|segment| segment.destination.port() == 15008));
    for ip in own {
        let plain = recording.plaintext_syns_from(ip);
        assert!(plain.is_empty(), "around the mesh: {plain:?}");
    }
}

/// Catches: a pod that chose to go on without a daemon and cannot, or that does not come back to the mesh.
#[test]
fn a_fail_open_pod_goes_on_in_plaintext_while_its_daemon_is_dead() {
    let mut mesh = both_modes().start().unwrap();
    let there = Server::start(&mesh.topology().outside, 8080, Behaviour::Echo).unwrap();
    let _here = Server::start(mesh.pod("open"), 9090, Behaviour::Echo).unwrap();
    let _closed = Server::start(mesh.pod("closed"), 9090, Behaviour::Echo).unwrap();
    let outside_ips = mesh.topology().outside_ips();
    mesh.take_daemon(1).unwrap().kill().unwrap();
    let (open, outside) = (mesh.pod("open"), &mesh.topology().outside);
    for family in FAMILIES {
        let target = SocketAddr::new(outside_ips[family], 8080);
        let capture = Capture::start(open, "eth0", Keep::Syns).unwrap();
        echo(open, target).expect("out of a fail-open pod");
        echo(outside, mesh.address("open", family, 9090)).expect("into a fail-open pod");
        assert_eq!(capture.stop().unwrap().syns_to(target), 1);
        assert_eq!(there.clients().last().unwrap().ip(), open.ips()[family]);
        let out = echo(mesh.pod("closed"), target).unwrap_err();
        assert_eq!(out.kind(), ErrorKind::ConnectionRefused);
        let into = echo(outside, mesh.address("closed", family, 9090)).unwrap_err();
        assert_eq!(into.kind(), ErrorKind::ConnectionRefused);
    }
    mesh.start_daemon(1).unwrap();
    for family in FAMILIES {
        let target = SocketAddr::new(outside_ips[family], 8080);
        echo(mesh.pod("open"), target).unwrap();
        assert_eq!(last_logged(mesh.daemon(1), "outbound", target)["path"], "passthrough");
    }
}

/// Catches: a daemon that hangs and is taken for alive, so that connections hang with it.
#[test]
fn a_daemon_that_hangs_counts_as_gone_until_it_moves_again() {
    let mesh = both_modes().start().unwrap();
    let _there = Server::start(&mesh.topology().outside, 8080, Behaviour::Echo).unwrap();
    let targets = mesh.topology().outside_ips().map(|ip| SocketAddr::new(ip, 8080));
    let (closed, open) = (mesh.pod("closed"), mesh.pod("open"));
    echo(closed, targets[0]).unwrap();
    mesh.daemon(1).signal(Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    // Until then the kernel completes handshakes in the daemon's name.
    let refused = || {
        let error = closed.run(move || Dial::to(targets[0]).connect()).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    };
    while refused().is_none() {
        assert!(began.elapsed() < Duration::from_secs(40), "a hanging daemon is still taken for alive");
        sleep(Duration::from_millis(200));
    }
    for target in targets {
        assert_eq!(echo(closed, target).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        echo(open, target).expect("a fail-open pod goes on");
    }
    mesh.daemon(1).signal(Signal::SIGCONT).unwrap();
    for target in targets {
        eventually("the daemon serves again", || echo(closed, target).ok());
    }
}

/// Hands a node over to a second daemon, as a rolling update does; answers with the first, draining.
fn hand_over(mesh: &mut Mesh, node: usize) -> testkit::Daemon {
    let newer = mesh.launch_beside(node).unwrap();
    newer.wait_until_ready().unwrap();
    let older = mesh.take_daemon(node).unwrap();
    mesh.put_daemon(node, newer);
    older.terminate().unwrap();
    older
}

/// Catches: a rolling update that costs a connection, new or open, on the sending or on the receiving node.
#[test]
fn a_second_daemon_takes_over_and_no_connection_notices() {
    let mut mesh = MeshPlan::new(&["client", "server"]).setting("drainDeadline", "60s").start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client").place.clone();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut held = targets.map(|target| Held::open(&client, target));
    let capture = Capture::start(&client, "eth0", Keep::Syns).unwrap();
    for node in [1, 2] {
        let rates = targets.map(|target| Rate::start(&client, target, 100));
        sleep(Duration::from_millis(300));
        let mut older = hand_over(&mut mesh, node);
        sleep(Duration::from_millis(700));
        for rate in rates {
            let outcomes = rate.stop().unwrap();
            assert_eq!(outcomes.failed(), 0, "handing node {node} over: {outcomes:?}");
            assert!(outcomes.answered > 50, "{outcomes:?}");
        }
        held.iter_mut().for_each(|held| held.still_works(MARKER));
        assert!(older.wait(Duration::ZERO).is_err(), "it ended before its connections");
        held = targets.map(|target| Held::open(&client, target));
        let status = older.wait(Duration::from_secs(30)).expect("it ends with its last connection");
        assert!(status.success());
        held.iter_mut().for_each(|held| held.still_works(MARKER));
    }
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    for ip in mesh.pod("client").ips() {
        assert_eq!(recording.plaintext_syns_from(ip).len(), 0);
    }
}

/// Catches: a daemon that never ends because a connection never does, or one that cuts before its time.
#[test]
fn what_is_open_at_the_drain_deadline_is_reset() {
    let mut mesh = MeshPlan::new(&["client", "server"]).setting("drainDeadline", "2s").start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client").place.clone();
    let mut held = FAMILIES.map(|family| Held::open(&client, mesh.address("server", family, 8080)));
    let began = Instant::now();
    let mut older = hand_over(&mut mesh, 1);
    held.iter_mut().for_each(|held| held.still_works(MARKER));
    for held in &mut held {
        assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset));
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "it was cut before the deadline");
    assert!(older.wait(Duration::from_secs(30)).unwrap().success());
    for family in FAMILIES {
        echo(&client, mesh.address("server", family, 8080)).unwrap();
    }
}

/// Catches: an older daemon that answers a change of the pods while a newer one serves them, takes their listeners
/// back, and takes them along when it ends.
#[test]
fn while_two_daemons_run_the_newer_one_follows_the_pods() {
    let mut mesh = MeshPlan::new(&["client", "server"]).setting("drainDeadline", "1s").start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let newer = mesh.launch_beside(1).unwrap();
    newer.wait_until_ready().unwrap();
    let mut older = mesh.take_daemon(1).unwrap();
    mesh.put_daemon(1, newer);
    mesh.add_pod(1, "late").unwrap();
    mesh.change(|plan| plan.pods.entry("client".to_owned()).or_default().fail_open = true).unwrap();
    for pod in ["client", "late"] {
        eventually("the newer daemon serves it", || mesh.daemon(1).serves(&Mesh::uid(pod)).then_some(()));
    }
    // Time for the older to have acted on it too.
    sleep(Duration::from_millis(500));
    older.terminate().unwrap();
    assert!(older.wait(Duration::from_secs(30)).unwrap().success());
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        for pod in ["client", "late"] {
            echo(mesh.pod(pod), target).unwrap_or_else(|error| panic!("{pod}: {error}"));
            eventually("the newer daemon has carried it", || {
                let lines = logged(mesh.daemon(1), "outbound", target);
                lines.iter().any(|line| line["path"] == "hbone" && line["src.workload"] == pod).then_some(())
            });
        }
    }
}

/// So long may pods be refused after a newer daemon has ended: the older looks each half second.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(3);

/// Catches: a newer daemon that dies after it took the node over, and leaves its pods closed while the older one is there and
/// says that it is ready; plaintext meanwhile; an older one that does not follow the list of pods again.
#[test]
fn when_a_newer_daemon_dies_the_older_serves_again() {
    let mut mesh = MeshPlan::new(&["client", "server"]).start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client").place.clone();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut held = targets.map(|target| Held::open(&client, target));
    let capture = Capture::start(&client, "eth0", Keep::Syns).unwrap();
    for node in [1, 2, 1] {
        let newer = mesh.launch_beside(node).unwrap();
        newer.wait_until_ready().unwrap();
        targets.iter().for_each(|target| echo(&client, *target).unwrap());
        let name = format!("late{node}-{}", mesh.node(node).pods.len());
        mesh.add_pod(node, &name).unwrap();
        eventually("the newer serves a pod that the older never had", || {
            newer.serves(&Mesh::uid(&name)).then_some(())
        });
        let began = Instant::now();
        newer.kill().unwrap();
        let rates = targets.map(|target| Rate::start(&client, target, 200));
        eventually("the older serves again", || {
            targets.iter().all(|target| echo(&client, *target).is_ok()).then_some(())
        });
        assert!(began.elapsed() < TAKEN_BACK_WITHIN, "it took {:?}", began.elapsed());
        for outcomes in rates.map(|rate| rate.stop().unwrap()) {
            let kinds: Vec<_> = outcomes.errors.keys().collect();
            let expected = |kind: &&String| ["ECONNREFUSED", "ECONNRESET"].contains(&kind.as_str());
            assert!(outcomes.errors.keys().all(|kind| expected(&kind)), "{kinds:?}");
        }
        eventually("and the newer's pod", || mesh.daemon(node).serves(&Mesh::uid(&name)).then_some(()));
        targets.iter().for_each(|target| echo(mesh.pod(&name), *target).unwrap());
        assert!(mesh.daemon(node).is_ready());
    }
    held.iter_mut().for_each(|held| held.still_works(MARKER));
    let recording = capture.stop().unwrap();
    recording.complete().unwrap();
    for ip in mesh.pod("client").ips() {
        assert_eq!(recording.plaintext_syns_from(ip).len(), 0);
    }
}

/// Catches: a newer daemon that dies in the midst of its takeover, which has pods already and the node's programs not yet.
#[test]
fn when_a_newer_daemon_dies_before_it_is_ready_the_older_serves_again() {
    let mut mesh = MeshPlan::new(&["client slow", "server"]).start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client").place.clone();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    // The older would look after the slow pod at the same time.
    mesh.daemon(1).signal(Signal::SIGSTOP).unwrap();
    flood_routes(mesh.pod("slow"));
    let newer = mesh.launch_beside(1).unwrap();
    eventually("it has the one and not yet the other", || {
        let lines = newer.log_lines().unwrap();
        let enrolled = |line: &serde_json::Value| {
            line["message"] == "pod enrolled" && line["pod"] == Mesh::uid("client").as_str()
        };
        lines.iter().any(enrolled).then_some(())
    });
    assert!(!newer.is_ready());
    newer.kill().unwrap();
    for target in targets {
        assert_eq!(echo(&client, target).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    mesh.daemon(1).signal(Signal::SIGCONT).unwrap();
    let began = Instant::now();
    for target in targets {
        eventually("the older serves again", || echo(&client, target).ok());
    }
    assert!(began.elapsed() < TAKEN_BACK_WITHIN, "it took {:?}", began.elapsed());
    eventually("and says that it is ready", || mesh.daemon(1).is_ready().then_some(()));
}

/// Catches: a rollback that leaves the node without service, since the newer daemon is told to end and the older is not.
#[test]
fn a_newer_daemon_that_is_told_to_end_gives_the_pods_back() {
    let mut mesh = MeshPlan::new(&["client", "server"]).setting("drainDeadline", "60s").start().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = mesh.pod("client").place.clone();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut newer = mesh.launch_beside(1).unwrap();
    newer.wait_until_ready().unwrap();
    let mut held = targets.map(|target| Held::open(&client, target));
    let rates = targets.map(|target| Rate::start(&client, target, 100));
    newer.terminate().unwrap();
    eventually("the older serves again", || {
        let lines = mesh.daemon(1).log_text();
        lines.contains("this one serves the node again").then_some(())
    });
    sleep(Duration::from_millis(500));
    held.iter_mut().for_each(|held| held.still_works(MARKER));
    drop(held);
    let status = newer.wait(Duration::from_secs(30)).expect("it ends with its last connection");
    assert!(status.success());
    sleep(Duration::from_millis(500));
    for rate in rates {
        let outcomes = rate.stop().unwrap();
        assert_eq!(outcomes.failed(), 0, "{outcomes:?}");
        assert!(outcomes.answered > 50, "{outcomes:?}");
    }
}
