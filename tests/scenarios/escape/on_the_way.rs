//! Sockets led elsewhere after they began to connect.

use std::{
    io,
    net::SocketAddr,
    sync::{Barrier, mpsc},
    thread,
    time::Duration,
};

use nix::{net::if_::if_nametoindex, sys::signal::Signal};
use socket2::Socket;
use testkit::{
    capture::{Capture, Keep},
    client::{Dial, set_option},
    eventually,
};

use crate::{
    escape::cage::{Cage, MESSAGE, PATIENCE, STEER_MARK, TARGET, User, echoed, open_stream, plan},
    support::FAMILIES,
};

const SO_BINDTOIFINDEX: i32 = 62;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

type Kind = fn(Dial) -> Dial;

/// How the sockets of one test are made.
const KINDS: [(User, Kind); 3] =
    [(User::Ordinary, |dial| dial), (User::Root, |dial| dial), (User::Root, Dial::mptcp)];

/// Everything that leads a socket to another device or route; each must be refused.
#[track_caller]
fn assert_immovable(socket: &Socket) {
    let index = i32::try_from(if_nametoindex("eth0").unwrap()).unwrap();
    let by_index = |index| set_option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, index);
    for (attack, result) in [
        ("SO_MARK 0", socket.set_mark(0)),
        ("another SO_MARK", socket.set_mark(STEER_MARK + 1)),
        ("SO_BINDTODEVICE eth0", socket.bind_device(Some(b"eth0"))),
        ("SO_BINDTODEVICE none", socket.bind_device(None)),
        ("SO_BINDTOIFINDEX eth0", by_index(index)),
        ("SO_BINDTOIFINDEX none", by_index(0)),
    ] {
        let error = result.map_or_else(|error| error.raw_os_error(), |()| None);
        assert_eq!(error, Some(libc::EPERM), "{attack}");
    }
}

/// Catches: an open connection whose bytes are led out of its tunnel.
#[test]
fn an_open_connection_keeps_its_way() {
    let cage = Cage::close();
    for family in FAMILIES {
        for (user, kind) in KINDS {
            let dial = kind(Dial::to(cage.target(family)));
            user.run(cage.client(), move || {
                let stream = dial.connect().unwrap();
                let socket = Socket::from(stream);
                assert_immovable(&socket);
                assert_eq!(echoed(&open_stream(socket).unwrap()).unwrap(), MESSAGE);
            });
        }
    }
    assert_eq!(cage.verdict("reroute_refused"), 2 * 3 * 6);
    cage.assert_carried([KINDS.len(); 2]);
    cage.assert_tight();
}

/// Catches: the escape that the mark alone left open, by SO_BINDTODEVICE eth0 for an ordinary user and by SO_MARK 0
/// for root: while the SYN waits for an answer, the next one leaves by eth0.
#[test]
fn a_connection_that_waits_for_its_handshake_keeps_its_way() {
    let mut mesh = plan().build().unwrap();
    // A listener that takes one connection more than it has accepted leaves the next SYN unanswered.
    mesh.pod("client").sysctl("net.core.somaxconn", "1").unwrap();
    mesh.start_daemon(1).unwrap();
    let cage = Cage::around(mesh);
    let steered = Capture::start(cage.client(), "lo", Keep::Syns).unwrap();
    // Short of the heartbeat's timeout.
    cage.mesh.daemon(1).signal(Signal::SIGSTOP).unwrap();
    let queue = fill_queue(&cage);
    let waiting = FAMILIES.map(|family| wait_for_handshake(&cage, family));
    // The first retransmission comes after a second.
    thread::sleep(Duration::from_millis(1300));
    let ports: Vec<u16> = waiting.iter().flatten().map(|waiting| waiting.port).collect();
    let syns = steered.stop().unwrap();
    for port in &ports {
        let sent = syns.segments.iter().filter(|syn| syn.source.port() == *port && !syn.flags.ack).count();
        assert!(sent >= 2, "port {port} sent {sent} SYNs to lo: there was nothing to lead out");
    }
    cage.mesh.daemon(1).signal(Signal::SIGCONT).unwrap();
    drop(queue);
    for waiting in waiting.into_iter().flatten() {
        assert_eq!(waiting.finish(), MESSAGE);
    }
    assert_eq!(cage.verdict("reroute_refused"), 2 * 3 * 6);
    cage.assert_carried([KINDS.len(); 2]);
    cage.assert_tight();
}

/// Connects to the port left open, but steered: to the pod's outbound listener, whose queue is then full.
fn fill_queue(cage: &Cage) -> Vec<Socket> {
    let elsewhere = SocketAddr::new(cage.target(0).ip(), TARGET + 1);
    cage.client().run(move || {
        let begin = || Dial::to(elsewhere).begin().unwrap();
        let mut attempts: Vec<Socket> = std::iter::repeat_with(begin).take(16).collect();
        // A busy machine may take its time for a handshake that fits in.
        thread::sleep(Duration::from_millis(200));
        attempts.retain(|socket| socket.peer_addr().is_ok());
        assert!(attempts.len() < 16, "the queue takes all");
        attempts
    })
}

/// A socket in SYN_SENT that has been attacked; its thread waits to go on.
struct Waiting {
    port: u16,
    go_on: mpsc::Sender<()>,
    thread: thread::JoinHandle<io::Result<Vec<u8>>>,
}

impl Waiting {
    #[track_caller]
    fn finish(self) -> Vec<u8> {
        self.go_on.send(()).unwrap();
        self.thread.join().unwrap().expect("the handshake that waited is completed by the daemon")
    }
}

fn wait_for_handshake(cage: &Cage, family: usize) -> [Waiting; 3] {
    KINDS.map(|(user, kind)| {
        let dial = kind(Dial::to(cage.target(family)));
        let (go_on, told) = mpsc::channel();
        let (report, port) = mpsc::channel();
        let thread = cage.client().spawn(move || {
            user.run_here(|| {
                let socket = dial.begin().unwrap();
                assert!(socket.peer_addr().is_err(), "the queue is not full: the handshake is complete");
                assert_immovable(&socket);
                report.send(socket.local_addr().unwrap().as_socket().unwrap().port()).unwrap();
                told.recv().unwrap();
                finish(socket)
            })
        });
        Waiting { port: port.recv().unwrap(), go_on, thread }
    })
}

/// Waits until the socket is connected, then has a message echoed.
fn finish(socket: Socket) -> io::Result<Vec<u8>> {
    eventually("the handshake", || socket.peer_addr().ok());
    echoed(&open_stream(socket)?)
}

/// Catches: a socket that TCP Fast Open leaves connected in name and without a SYN sent: the SYN would leave later.
#[test]
fn a_connection_that_has_not_begun_yet_keeps_its_way() {
    let cage = Cage::close();
    for family in FAMILIES {
        let target = cage.target(family);
        let answer = User::Ordinary.run(cage.client(), move || {
            let socket = Dial::to(target).unconnected().unwrap();
            for option in [TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE] {
                set_option(&socket, libc::IPPROTO_TCP, option, 1).unwrap();
            }
            socket.connect(&target.into()).unwrap();
            assert_immovable(&socket);
            echoed(&open_stream(socket).unwrap())
        });
        assert_eq!(answer.unwrap(), MESSAGE);
    }
    cage.assert_carried([1; 2]);
    cage.assert_tight();
}

/// Catches: a moment between the guard's look at a socket and the option's effect in which `connect` slips through.
#[test]
fn no_race_of_two_threads_leads_a_socket_out() {
    const ROUNDS: usize = 200;
    let cage = Cage::close();
    let mut carried = [0; 2];
    for family in FAMILIES {
        let target = cage.target(family);
        carried[family] = User::Ordinary.run(cage.client(), move || {
            (0..ROUNDS).filter(|_| race(target).is_ok_and(|answer| answer == MESSAGE)).count()
        });
    }
    cage.assert_carried(carried);
    cage.assert_tight();
}

/// One thread connects, the other binds the socket to eth0, both as soon as they can. Threads inherit who they are.
fn race(target: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = Dial::to(target).unconnected()?;
    let (other, start) = (socket.try_clone()?, Barrier::new(2));
    thread::scope(|scope| {
        let bind = scope.spawn(|| {
            start.wait();
            other.bind_device(Some(b"eth0"))
        });
        start.wait();
        let connected = socket.connect_timeout(&target.into(), PATIENCE);
        bind.join().map(drop).map_err(|_| io::Error::other("the other thread panicked"))?;
        connected
    })?;
    echoed(&open_stream(socket)?)
}
