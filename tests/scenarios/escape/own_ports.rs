//! The ports that the mesh keeps for itself, and the ways in which a pod talks to itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use testkit::{Place, client::Dial, eventually, server::Server};

use crate::{
    escape::cage::{Cage, HBONE, MESSAGE, TARGET, User, echo_in, plan},
    support::FAMILIES,
};

/// Of the daemon's listeners inside each pod: outbound, plaintext, HBONE.
const OWN_PORTS: [u16; 3] = [15001, 15006, HBONE];
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Says something to `target` and fails unless it is turned away, soon and without an answer.
#[track_caller]
fn assert_turned_away(from: &Place, target: SocketAddr) {
    let result = from.run(move || Dial::to(target).exchange(MESSAGE));
    let error = result.err().unwrap_or_else(|| panic!("{} had an answer from {target}", from.name()));
    let waited = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    assert!(!waited, "{} was left waiting by {target}", from.name());
}

/// Catches: a daemon that takes a call to its own listener for a captured connection, and calls itself for ever.
#[test]
fn the_daemons_own_ports_serve_nobody() {
    let cage = Cage::close();
    let (client, outside) = (cage.client(), &cage.mesh.topology().outside);
    let mut attempts = 0;
    for family in FAMILIES {
        for port in OWN_PORTS {
            for (from, ip) in [
                (&client.place, client.ips()[family]),
                (&client.place, LOOPBACK[family]),
                (&client.place, cage.target(family).ip()),
                (outside, cage.target(family).ip()),
            ] {
                assert_turned_away(from, SocketAddr::new(ip, port));
                attempts += 1;
            }
        }
        let target = cage.target(family);
        assert_eq!(client.run(move || Dial::to(target).exchange(MESSAGE)).unwrap(), MESSAGE);
    }
    eventually("every connection has ended", || {
        cage.mesh.daemon(1).connections().unwrap().is_empty().then_some(())
    });
    let daemon = cage.mesh.daemon(1);
    // Two lines for each of the connections that were carried, and one at most for what was turned away.
    let lines = daemon.access_log().unwrap();
    assert!(lines.len() <= attempts + 4, "{} lines for {attempts} attempts: {lines:#?}", lines.len());
    assert!(lines.iter().all(|line| line["reason"] != "loop"), "{lines:#?}");
    cage.assert_carried([1; 2]);
    cage.assert_tight();
}

/// Catches: an application that listens where the mesh does, and is handed what others send to the mesh.
#[test]
fn an_application_on_the_meshs_ports_gets_none_of_its_traffic() {
    let mut mesh = plan().build().unwrap();
    let servers = OWN_PORTS.map(|port| echo_in(mesh.pod("server"), port));
    mesh.start_daemon(1).unwrap();
    let cage = Cage::around(mesh);
    let (client, outside) = (cage.client(), &cage.mesh.topology().outside);
    for family in FAMILIES {
        let target = cage.target(family);
        assert_eq!(client.run(move || Dial::to(target).exchange(MESSAGE)).unwrap(), MESSAGE);
        for port in OWN_PORTS {
            let target = SocketAddr::new(target.ip(), port);
            assert_turned_away(&client.place, target);
            assert_turned_away(outside, target);
        }
    }
    assert_eq!(servers.each_ref().map(Server::accepted), [0; 3]);
    // Its own loopback is its own.
    for (family, port) in FAMILIES.into_iter().flat_map(|family| OWN_PORTS.map(|port| (family, port))) {
        let dial = Dial::to(SocketAddr::new(LOOPBACK[family], port));
        assert_eq!(cage.mesh.pod("server").run(move || dial.exchange(MESSAGE)).unwrap(), MESSAGE);
    }
    assert_eq!(servers.each_ref().map(Server::accepted), [2; 3]);
    cage.assert_carried([1; 2]);
    cage.assert_tight();
}

/// Catches: a pod's talk with itself that is taken from it, or led outside.
#[test]
fn a_pod_that_talks_to_itself_stays_by_itself() {
    let cage = Cage::close();
    let client = cage.client();
    let own = echo_in(client, TARGET);
    let unspecified: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    for family in FAMILIES {
        let own_ip = client.ips()[family];
        for (source, ip) in [
            (None, LOOPBACK[family]),
            (None, unspecified[family]),
            (None, own_ip),
            (Some(own_ip), own_ip),
            (Some(LOOPBACK[family]), own_ip),
            (Some(own_ip), LOOPBACK[family]),
        ] {
            let target = SocketAddr::new(ip, TARGET);
            let dial = Dial::to(target);
            let dial = source.map_or(dial.clone(), |source| dial.from(SocketAddr::new(source, 0)));
            let answer = User::Ordinary.run(client, move || dial.exchange(MESSAGE));
            assert_eq!(answer.unwrap_or_else(|e| panic!("{source:?} to {target}: {e}")), MESSAGE);
        }
    }
    assert_eq!(own.accepted(), 12);
    // Counted by the kernel at each SYN, so that nothing can come in late as a line of a log can.
    for verdict in ["steered", "outbound_assigned", "plaintext_assigned", "hbone_assigned"] {
        assert_eq!(cage.verdict(verdict), 0, "{verdict}: none of these is the mesh's business");
    }
    cage.assert_carried([0; 2]);
    cage.assert_tight();
}
