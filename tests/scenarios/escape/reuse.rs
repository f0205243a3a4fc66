//! Sockets used again for another destination: what steering gave them must lead neither out nor astray.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;
use testkit::client::{Dial, disconnect, set_option};

use crate::{
    escape::cage::{Cage, MESSAGE, PATIENCE, TARGET, User, echo_in, echoed, exchange, open_stream},
    support::FAMILIES,
};

/// Where a socket goes next, and what comes of it.
#[derive(Clone, Copy, Debug)]
struct Stage {
    target: SocketAddr,
    /// The echo comes back; otherwise `connect` fails with EHOSTUNREACH.
    works: bool,
}

/// Connects one socket to one after the other.
fn go_through(stages: &[Stage]) {
    let first = stages[0].target;
    let mut stream = Dial::to(first).connect().unwrap();
    for (number, Stage { target, works }) in stages.iter().enumerate() {
        if number > 0 {
            disconnect(&stream).unwrap();
            let socket = Socket::from(stream);
            let connected = socket.connect_timeout(&(*target).into(), PATIENCE);
            if !works {
                let error = connected.expect_err("out of reach from lo");
                assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "stage {number}, to {target}");
                stream = socket.into();
                continue;
            }
            connected.unwrap_or_else(|error| panic!("stage {number}, to {target}: {error}"));
            stream = open_stream(socket).unwrap();
        }
        let answer = echoed(&stream).unwrap_or_else(|error| panic!("stage {number}, to {target}: {error}"));
        assert_eq!(answer, MESSAGE);
    }
}

/// Catches: a socket that keeps mark or device when it goes where nothing is captured, or loses them when it comes
/// back to what is.
#[test]
fn a_socket_used_again_goes_where_it_is_told() {
    let cage = Cage::close();
    let _own = echo_in(cage.client(), TARGET);
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for family in FAMILIES {
        for user in User::ALL {
            let stage = |target, works| Stage { target, works };
            let captured = stage(cage.target(family), true);
            // Only root's socket can be taken off lo again, even by the kernel side. An ordinary user's is told at once
            // that it leads nowhere.
            let open = stage(cage.open(family), user == User::Root);
            let own = stage(cage.mesh.address("client", family, TARGET), user == User::Root);
            let loopback = stage(SocketAddr::new(loopback[family], TARGET), true);
            let stages =
                [captured, captured, own, captured, loopback, captured, open, captured, open, own, loopback];
            user.run(cage.client(), move || go_through(&stages));
        }
    }
    cage.assert_carried([2 * 5; 2]);
    cage.assert_tight();
}

/// Catches: a mark taken off between two connections that is not put on again.
#[test]
fn a_socket_cleaned_by_its_owner_is_steered_again() {
    let cage = Cage::close();
    for family in FAMILIES {
        let stages = [Stage { target: cage.target(family), works: true }; 3];
        cage.client().run(move || {
            let clean = |socket: &Socket| {
                socket.set_mark(0).unwrap();
                socket.bind_device(None).unwrap();
            };
            let mut stream = Dial::to(stages[0].target).connect().unwrap();
            for Stage { target, .. } in stages {
                disconnect(&stream).unwrap();
                let socket = Socket::from(stream);
                clean(&socket);
                socket.connect_timeout(&target.into(), PATIENCE).unwrap();
                stream = open_stream(socket).unwrap();
                assert_eq!(echoed(&stream).unwrap(), MESSAGE);
            }
        });
    }
    cage.assert_carried([4; 2]);
    cage.assert_tight();
}

/// Catches: an AF_INET6 socket that becomes an AF_INET one in the middle, and so changes hooks.
#[test]
fn a_socket_that_changes_its_family_is_still_ours() {
    let cage = Cage::close();
    let target = cage.target(0);
    User::Ordinary.run(cage.client(), move || {
        let stream = Dial::to(target).mapped().connect().unwrap();
        set_option(&stream, libc::SOL_IPV6, libc::IPV6_ADDRFORM, libc::AF_INET).unwrap();
        assert_eq!(echoed(&stream).unwrap(), MESSAGE);
        disconnect(&stream).unwrap();
        let socket = Socket::from(stream);
        assert_eq!(exchange(socket, target, PATIENCE).unwrap(), MESSAGE);
    });
    cage.assert_carried([2, 0]);
    cage.assert_tight();
}
