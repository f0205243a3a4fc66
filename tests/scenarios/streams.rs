//! What happens to the bytes of a connection, and to its end.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, GREETING, Server},
};

use crate::support::{FAMILIES, last_logged, reset_after_a_byte};

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
        reset_after_a_byte(client, target);
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

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}
