//! Captures, servers and clients, without a mesh: what the scenarios rely on to tell a mesh from none.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use testkit::{
    Topology,
    capture::{Capture, Keep},
    client::{self, Dial},
    rate::Rate,
    server::{Behaviour, GREETING, Server},
};

fn address(topology: &Topology, family: usize, port: u16) -> SocketAddr {
    SocketAddr::new(topology.pod("server").ips()[family], port)
}

/// Fails if a capture would miss a plaintext connection, whatever the family, the socket or the filter.
#[test]
fn a_capture_sees_plaintext_on_the_wire() {
    let topology = Topology::build(&["client", "server"]).unwrap();
    let server = Server::start(topology.pod("server"), 8080, Behaviour::Echo).unwrap();
    let client = topology.pod("client");
    let everything = Capture::start(topology.underlay(), "node1", Keep::Everything).unwrap();
    let syns = Capture::start(client, "eth0", Keep::Syns).unwrap();
    for family in 0..2 {
        let dial = Dial::to(address(&topology, family, server.port()));
        for dial in [dial.clone(), dial.clone().mapped(), dial.mptcp()] {
            assert_eq!(client.run(move || dial.exchange(b"the marker")).unwrap(), b"the marker");
        }
        let dial = Dial::to(address(&topology, family, server.port()));
        client.run(move || dial.connect_with_data(b"opened fast")).unwrap();
    }
    let (everything, syns) = (everything.stop().unwrap(), syns.stop().unwrap());
    everything.complete().unwrap();
    syns.complete().unwrap();
    assert!(everything.contains(b"the marker") && everything.contains(b"opened fast"));
    assert!(!everything.contains(b"another marker"));
    assert!(everything.tunnels().is_empty());
    for recording in [&everything, &syns] {
        for ip in client.ips() {
            assert_eq!(recording.plaintext_syns_from(ip).len(), 4);
        }
    }
    assert!(syns.segments.iter().all(|segment| segment.flags.syn));
}

/// Fails if a server does something else than its name says: scenarios would then blame the mesh.
#[test]
fn every_server_behaves_as_it_says() {
    let topology = Topology::build(&["client", "server"]).unwrap();
    let (client, server) = (topology.pod("client"), topology.pod("server"));
    for family in 0..2 {
        let start = |behaviour| {
            let server = Server::start(server, 0, behaviour).unwrap();
            let dial = Dial::to(address(&topology, family, server.port()));
            (server, dial)
        };
        let (_server, dial) = start(Behaviour::AnswerAfterEnd);
        let answer = client.run(move || {
            let mut stream = dial.connect().unwrap();
            stream.write_all(b"question").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        assert_eq!(answer.unwrap(), "question");

        let (_server, dial) = start(Behaviour::GreetAndFinish);
        assert_eq!(client.run(move || dial.read_all()).unwrap(), GREETING);

        let (server, dial) = start(Behaviour::Report);
        let seen = client.run(move || dial.read_all()).unwrap();
        let expected = format!("{} {}\n", server.clients()[0], address(&topology, family, server.port()));
        assert_eq!(String::from_utf8(seen).unwrap(), expected);
        assert_eq!(server.clients()[0].ip(), client.ips()[family]);

        let (_server, dial) = start(Behaviour::Send(3_000_000));
        let received = client.run(move || testkit::pattern::check(dial.connect().unwrap()));
        assert_eq!(received.unwrap(), 3_000_000);

        let (_server, dial) = start(Behaviour::Reset);
        let error = client.run(move || dial.exchange(b"x").unwrap_err().kind());
        assert_eq!(error, std::io::ErrorKind::ConnectionReset);

        let (server, dial) = start(Behaviour::Echo);
        client.run(move || client::reset(dial.connect().unwrap()).unwrap());
        let give_up = std::time::Instant::now() + Duration::from_secs(5);
        while server.resets() == 0 {
            assert!(std::time::Instant::now() < give_up, "the server saw no reset");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Fails if the score hides refused or answered connections.
#[test]
fn the_rate_keeper_counts_every_outcome() {
    let topology = Topology::build(&["client", "server"]).unwrap();
    let (client, server) = (topology.pod("client"), topology.pod("server"));
    let echo = Server::start(server, 0, Behaviour::Echo).unwrap();
    let answered = Rate::start(client, address(&topology, 0, echo.port()), 500);
    let refused = Rate::start(client, address(&topology, 1, 9), 500);
    std::thread::sleep(Duration::from_millis(500));
    let (answered, refused) = (answered.stop().unwrap(), refused.stop().unwrap());
    assert!(answered.answered > 100 && answered.failed() == 0, "{answered:?}");
    assert!(refused.answered == 0 && refused.errors["ECONNREFUSED"] == refused.total(), "{refused:?}");
}
