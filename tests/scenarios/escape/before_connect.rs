//! Sockets prepared to lead elsewhere before they connect.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::net::if_::if_nametoindex;
use socket2::Socket;
use testkit::{
    client::{Dial, set_option, set_option_bytes},
    eventually,
};

use crate::{
    escape::cage::{Cage, MESSAGE, PATIENCE, STEER_MARK, User, exchange},
    support::FAMILIES,
};

const SO_BINDTOIFINDEX: i32 = 62;
/// Of Istio's own sockets: a habit that must not open a door here.
const ISTIO_MARK: u32 = 1337;

type Prepare = fn(&Socket, SocketAddr) -> io::Result<()>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Carried,
    /// `connect` fails with this.
    Fails(i32),
    /// Nobody answers: the SYN is steered, and the kernel takes no such packet in.
    Lost,
}

use Outcome::{Carried, Fails, Lost};

struct Attempt {
    name: &'static str,
    user: User,
    prepare: Prepare,
    outcome: Outcome,
}

const fn attempt(name: &'static str, user: User, outcome: Outcome, prepare: Prepare) -> Attempt {
    Attempt { name, user, prepare, outcome }
}

const EITHER_FAMILY: [Attempt; 11] = [
    attempt("SO_BINDTODEVICE eth0", User::Ordinary, Fails(libc::EHOSTUNREACH), bind_to_eth0),
    attempt("SO_BINDTODEVICE eth0", User::Root, Carried, bind_to_eth0),
    attempt("SO_BINDTOIFINDEX eth0", User::Ordinary, Fails(libc::EHOSTUNREACH), bind_to_index),
    attempt("SO_BINDTOIFINDEX eth0", User::Root, Carried, bind_to_index),
    attempt("SO_BINDTODEVICE lo", User::Ordinary, Carried, |s, _| s.bind_device(Some(b"lo"))),
    attempt("SO_MARK of Istio's proxy", User::Root, Carried, |s, _| s.set_mark(ISTIO_MARK)),
    attempt("our mark and eth0", User::Root, Carried, |s, target| {
        s.set_mark(STEER_MARK)?;
        bind_to_eth0(s, target)
    }),
    attempt("SO_DONTROUTE", User::Ordinary, Carried, |s, _| {
        set_option(s, libc::SOL_SOCKET, libc::SO_DONTROUTE, 1)
    }),
    attempt("a foreign source", User::Root, Carried, foreign_source),
    attempt("a loopback source", User::Ordinary, Carried, loopback_source),
    attempt("unicast interface eth0", User::Ordinary, Carried, unicast_interface),
];

const IPV4: [Attempt; 2] = [
    attempt("loose source routing", User::Root, Lost, loose_source_route),
    attempt("strict source routing", User::Root, Lost, strict_source_route),
];

const IPV6: [Attempt; 1] = [attempt("IPV6_PKTINFO with eth0", User::Ordinary, Carried, packet_info)];

/// Catches: a hook that trusts what a socket was told before `connect`; an option that chooses another route.
#[test]
fn no_preparation_of_a_socket_leads_around_the_mesh() {
    let cage = Cage::close();
    let mut carried = [0; 2];
    for family in FAMILIES {
        let own: &[Attempt] = if family == 0 { &IPV4 } else { &IPV6 };
        for attempt in EITHER_FAMILY.iter().chain(own) {
            let Attempt { name, user, prepare, outcome } = *attempt;
            let target = cage.target(family);
            let result = user.run(cage.client(), move || {
                let socket = Dial::to(target).unconnected().unwrap();
                prepare(&socket, target).unwrap_or_else(|error| panic!("{name}: {error}"));
                let patience = if outcome == Lost { Duration::from_millis(500) } else { PATIENCE };
                exchange(socket, target, patience)
            });
            let seen = match &result {
                Ok(answer) if answer == MESSAGE => Carried,
                Ok(_) => panic!("{name}: a garbled answer"),
                Err(error) => error.raw_os_error().map_or(Lost, Fails),
            };
            assert_eq!(seen, outcome, "{name} of {user:?} towards {target}");
            carried[family] += usize::from(outcome == Carried);
        }
    }
    assert_eq!(cage.verdict("unsteerable_refused"), 4);
    cage.assert_carried(carried);
    cage.assert_tight();
}

fn bind_to_eth0(socket: &Socket, _: SocketAddr) -> io::Result<()> {
    socket.bind_device(Some(b"eth0"))
}

fn bind_to_index(socket: &Socket, _: SocketAddr) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, eth0())
}

fn foreign_source(socket: &Socket, target: SocketAddr) -> io::Result<()> {
    socket.set_ip_transparent_v4(true)?;
    let source: IpAddr = match target.ip() {
        IpAddr::V4(_) => Ipv4Addr::new(10, 99, 99, 99).into(),
        IpAddr::V6(_) => {
            set_option(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
            Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x99).into()
        }
    };
    socket.bind(&SocketAddr::new(source, 0).into())
}

fn loopback_source(socket: &Socket, target: SocketAddr) -> io::Result<()> {
    let source: IpAddr =
        if target.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    socket.bind(&SocketAddr::new(source, 0).into())
}

fn unicast_interface(socket: &Socket, target: SocketAddr) -> io::Result<()> {
    let (level, name) = match target {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_UNICAST_IF),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_UNICAST_IF),
    };
    set_option(socket, level, name, eth0().to_be())
}

fn loose_source_route(socket: &Socket, target: SocketAddr) -> io::Result<()> {
    source_route(socket, target, 0x83)
}

fn strict_source_route(socket: &Socket, target: SocketAddr) -> io::Result<()> {
    source_route(socket, target, 0x89)
}

/// RFC 791, section 3.1: type, length, pointer to the first address, that address; then the end of the list.
fn source_route(socket: &Socket, target: SocketAddr, kind: u8) -> io::Result<()> {
    let IpAddr::V4(hop) = target.ip() else { unreachable!("of IPv4") };
    let [a, b, c, d] = hop.octets();
    set_option_bytes(socket, libc::SOL_IP, libc::IP_OPTIONS, &[kind, 7, 4, a, b, c, d, 0])
}

/// RFC 3542, section 6: the address to send from and the interface to send by, as a sticky option.
fn packet_info(socket: &Socket, _: SocketAddr) -> io::Result<()> {
    let mut value = Ipv6Addr::UNSPECIFIED.octets().to_vec();
    value.extend(eth0().to_ne_bytes());
    set_option_bytes(socket, libc::SOL_IPV6, libc::IPV6_PKTINFO, &value)
}

fn eth0() -> i32 {
    i32::try_from(if_nametoindex("eth0").unwrap()).unwrap()
}

/// Catches: kinds of socket and ways to connect that pass by the hooks.
#[test]
fn no_kind_of_socket_leads_around_the_mesh() {
    let cage = Cage::close();
    for family in FAMILIES {
        let dial = Dial::to(cage.target(family));
        for dial in [dial.clone(), dial.clone().mapped(), dial.clone().mptcp(), dial.clone().mapped().mptcp()]
        {
            assert_eq!(User::Ordinary.run(cage.client(), move || dial.exchange(MESSAGE)).unwrap(), MESSAGE);
        }
        let answer = User::Ordinary.run(cage.client(), move || {
            let mut stream = dial.connect_with_data(MESSAGE)?;
            let mut answer = vec![0; MESSAGE.len()];
            stream.read_exact(&mut answer).map(|()| answer)
        });
        assert_eq!(answer.unwrap(), MESSAGE);
    }
    cage.assert_carried([5; 2]);
    cage.assert_tight();
}

/// Catches: a mark that only has to be known to pass as the daemon's; a forgery that nobody hears of.
#[test]
fn our_own_mark_opens_nothing_and_is_told() {
    let cage = Cage::close();
    for family in FAMILIES {
        for target in [cage.target(family), cage.open(family)] {
            let dial = Dial::to(target).mark(STEER_MARK);
            assert_eq!(cage.client().run(move || dial.exchange(MESSAGE)).unwrap(), MESSAGE);
        }
    }
    assert_eq!(cage.verdict("forged_mark"), 4);
    eventually("the kernel side's word is in the daemon's log", || {
        let told = |line: &serde_json::Value| {
            line["target"] == "ebpf" && line["message"].as_str().is_some_and(|m| m.contains("forged mark"))
        };
        cage.mesh.daemon(1).log_lines().unwrap().iter().any(told).then_some(())
    });
    let metric = "ztunnel_redirection_verdicts_total";
    eventually("it is counted", || {
        (cage.mesh.daemon(1).metric(metric, &[("verdict", "forged_mark")]).unwrap() == 4.0).then_some(())
    });
    cage.assert_carried([1; 2]);
    cage.assert_tight();
}
