//! What happens to the bytes of a connection, and to its end.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use testkit::{
    Mesh, MeshPlan, Place,
    client::{self, Dial},
    eventually, pattern,
    server::{Behaviour, GREETING, Server},
};

use crate::support::{FAMILIES, last_logged};

const GIBIBYTE: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(120);

/// Catches: an end of one direction that ends the other too, or never arrives.
#[test]
fn each_side_may_finish_first() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let answers_last = Server::start(server, 8080, Behaviour::AnswerAfterEnd).unwrap();
    let finishes_first = Server::start(server, 8081, Behaviour::GreetAndFinish).unwrap();
    for family in FAMILIES {
        let dial = Dial::to(mesh.address("server", family, answers_last.port()));
        let answer = client.run(move || {
            let mut stream = dial.connect().unwrap();
            stream.write_all(b"all of the question").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_to_end(&mut stream)
        });
        assert_eq!(answer, b"all of the question");

        let before = finishes_first.received();
        let dial = Dial::to(mesh.address("server", family, finishes_first.port()));
        client.run(move || {
            let mut stream = dial.connect().unwrap();
            assert_eq!(read_to_end(&mut stream), GREETING);
            stream.write_all(b"after the end").unwrap();
        });
        eventually("what comes after the server's end arrives", || {
            (finishes_first.received() - before == 13).then_some(())
        });
    }
}

/// Catches: a reset that arrives as a proper end, in either direction: half an answer taken for the whole.
#[test]
fn a_reset_is_a_reset_at_the_other_end() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let resets = Server::start(server, 8080, Behaviour::Reset).unwrap();
    let echoes = Server::start(server, 8081, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, resets.port());
        let dial = Dial::to(target);
        assert_eq!(client.run(move || dial.exchange(b"?")).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(last_logged(mesh.daemon(1), "outbound", target)["reason"], "reset_by_destination");

        let before = echoes.resets();
        let target = mesh.address("server", family, echoes.port());
        client.run(move || {
            let mut stream = Dial::to(target).connect().unwrap();
            stream.write_all(b"!").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            client::reset(stream).unwrap();
        });
        eventually("the server sees a reset", || (echoes.resets() > before).then_some(()));
        assert_eq!(last_logged(mesh.daemon(2), "inbound", target)["reason"], "reset_by_source");
    }
}

/// Catches: an application that is told of success, or waits for long, when nobody is there.
#[test]
fn what_cannot_be_reached_is_reset_at_once() {
    let plan = MeshPlan::new(&["client ghost", "server"]).setting("connectDeadline", "2s");
    let mut mesh = plan.start().unwrap();
    let closed_port = 9;
    for family in FAMILIES {
        let target = mesh.address("server", family, closed_port);
        let (error, took) = fail(mesh.pod("client"), target);
        assert!(is_abort(error), "{target}: {error:?}");
        assert!(took < Duration::from_secs(2), "a refused port took {took:?}");
    }
    // The pod vanishes and the state does not know it yet: its address answers nobody.
    let ghost = mesh.pod("ghost").ips();
    drop(mesh.vanish("ghost").unwrap());
    let nowhere: IpAddr = "10.9.9.9".parse().unwrap();
    for ip in ghost.into_iter().chain([nowhere]) {
        let target = SocketAddr::new(ip, 8080);
        let (error, took) = fail(mesh.pod("client"), target);
        assert!(is_abort(error), "{target}: {error:?}");
        assert!(took < Duration::from_secs(8), "{target} took {took:?} with a deadline of 2 s");
    }
}

/// Connects and waits for the failure: at connect(), or at the first read.
fn fail(from: &Place, target: SocketAddr) -> (ErrorKind, Duration) {
    from.run(move || {
        let started = Instant::now();
        let dial = Dial::to(target).patience(Duration::from_secs(20));
        let result = dial.connect().and_then(|mut stream| stream.read(&mut [0]));
        let error = match result {
            // A graceful end would tell the application that all is well.
            Ok(_) => ErrorKind::UnexpectedEof,
            Err(error) => error.kind(),
        };
        (error, started.elapsed())
    })
}

fn is_abort(error: ErrorKind) -> bool {
    use ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error, ConnectionReset | ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// Catches: a byte lost, repeated or changed in a long transfer, and a window that is never given back.
#[test]
fn a_gibibyte_arrives_intact_both_ways() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let sends = Server::start(server, 8080, Behaviour::Send(GIBIBYTE / 2)).unwrap();
    let checks = Server::start(server, 8081, Behaviour::Check).unwrap();
    // Half of it over each family, in both directions at once.
    for family in FAMILIES {
        let dial = Dial::to(mesh.address("server", family, sends.port())).patience(PATIENCE);
        let down = client.spawn(move || pattern::check(dial.connect()?));
        let dial = Dial::to(mesh.address("server", family, checks.port())).patience(PATIENCE);
        let up = client.spawn(move || {
            let mut stream = dial.connect()?;
            pattern::send(&stream, GIBIBYTE / 2)?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        assert_eq!(down.join().unwrap().unwrap(), GIBIBYTE / 2);
        assert_eq!(up.join().unwrap().unwrap(), (GIBIBYTE / 2).to_string());
    }
}

/// Catches: connections lost or mixed up when many stand at once.
#[test]
fn two_thousand_connections_at_once() {
    const COUNT: usize = 2000;
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, server.port()));
    mesh.pod("client").run(move || {
        let patient = |target| Dial::to(target).patience(Duration::from_secs(60)).connect();
        let mut streams: Vec<TcpStream> =
            (0..COUNT).map(|index| patient(targets[index % 2]).expect("connecting")).collect();
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&index.to_be_bytes()).expect("asking");
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut answer = [0; size_of::<usize>()];
            stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("connection {index}: {error}"));
            assert_eq!(usize::from_be_bytes(answer), index);
        }
    });
    assert_eq!(server.accepted(), COUNT);
    for daemon in mesh.daemons() {
        eventually("all are accounted for", || {
            let ended =
                daemon.access_log().unwrap().iter().filter(|line| line["reason"] == "completed").count();
            (ended == COUNT && daemon.connections().unwrap().is_empty()).then_some(())
        });
    }
}

/// Catches: a daemon that buffers what nobody reads. What one stream may hold is in the daemon's promises; a
/// thousand of them must stay far below what an unbounded buffer would take.
#[test]
fn a_thousand_streams_that_nobody_reads_are_held_back() {
    const STREAMS: usize = 1000;
    const BUDGET: u64 = 192 << 20;
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let server = Server::start(mesh.pod("server"), 8080, Behaviour::Hold).unwrap();
    let before: Vec<u64> = mesh.daemons().map(|daemon| daemon.memory().unwrap()).collect();
    let targets = FAMILIES.map(|family| mesh.address("server", family, server.port()));
    let (sent, streams) = mesh.pod("client").run(move || {
        let streams: Vec<TcpStream> = (0..STREAMS)
            .map(|index| Dial::to(targets[index % 2]).patience(Duration::from_secs(60)).connect().unwrap())
            .collect();
        (push_until_stuck(&streams), streams)
    });
    assert_eq!(server.accepted(), STREAMS);
    assert!(sent > STREAMS as u64 * 4096, "the streams were held back before they carried anything");
    for (daemon, before) in mesh.daemons().zip(before) {
        let grown = daemon.memory().unwrap().saturating_sub(before);
        assert!(grown < BUDGET, "{sent} bytes that nobody reads cost a daemon {} MiB", grown >> 20);
    }
    drop(streams);
}

/// Writes to all streams until none takes any more for a while.
fn push_until_stuck(streams: &[TcpStream]) -> u64 {
    const QUIET: Duration = Duration::from_secs(2);
    let chunk = [7; 64 << 10];
    let (mut sent, mut last_progress) = (0, Instant::now());
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    while last_progress.elapsed() < QUIET {
        for mut stream in streams {
            if let Ok(length) = stream.write(&chunk) {
                sent += length as u64;
                last_progress = Instant::now();
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    sent
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}
