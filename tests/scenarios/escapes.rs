//! Ways around the mesh that were tried. Whatever else happens: no connection attempt leaves the pod in plaintext.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use nix::{net::if_::if_nametoindex, sys::signal::Signal};
use socket2::{SockRef, Socket};
use testkit::{
    Mesh, MeshPlan, Place, Pod,
    capture::{Capture, Keep},
    client::{self, Dial, become_an_ordinary_user, set_option},
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, last_logged};

/// What steered sockets carry.
const STEER_MARK: u32 = 0x5a1;
const SO_BINDTOIFINDEX: i32 = 62;

/// A capture at a pod's door.
struct Watch(Capture, [IpAddr; 2]);

impl Watch {
    fn over(pod: &Pod) -> Self {
        Self(Capture::start(pod, "eth0", Keep::Syns).unwrap(), pod.ips())
    }

    #[track_caller]
    fn saw_nothing(self) {
        let recording = self.0.stop().unwrap();
        recording.complete().unwrap();
        for ip in self.1 {
            let escaped = recording.plaintext_syns_from(ip);
            assert!(escaped.is_empty(), "escaped: {escaped:?}");
        }
    }
}

/// Everything that may lead an open or opening socket elsewhere; each must be refused.
fn reroute(socket: &Socket, interface: &str) -> Vec<(&'static str, io::Result<()>)> {
    let index = i32::try_from(if_nametoindex(interface).unwrap()).unwrap();
    vec![
        ("SO_BINDTODEVICE", socket.bind_device(Some(interface.as_bytes()))),
        ("SO_BINDTODEVICE to none", socket.bind_device(None)),
        ("SO_BINDTOIFINDEX", set_option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, index)),
        ("SO_BINDTOIFINDEX 0", set_option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, 0)),
        ("SO_MARK 0", socket.set_mark(0)),
        ("SO_MARK other", socket.set_mark(STEER_MARK + 1)),
    ]
}

#[track_caller]
fn assert_all_refused(results: Vec<(&'static str, io::Result<()>)>) {
    for (attack, result) in results {
        assert!(result.is_err(), "{attack} was allowed");
    }
}

/// Catches: a hook that trusts a binding made before connect().
#[test]
fn binding_to_a_device_first_leads_nowhere_else() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let watch = Watch::over(client);
    for family in FAMILIES {
        let dial = Dial::to(mesh.address("server", family, 8080)).device("eth0");
        let ordinary = dial.clone();
        let refused = client.run(move || {
            become_an_ordinary_user().unwrap();
            ordinary.connect().unwrap_err()
        });
        assert_eq!(refused.raw_os_error(), Some(libc::EHOSTUNREACH));
        // Root's socket may be taken to lo after all; then it is as good as any.
        if let Ok(answer) = client.run(move || dial.exchange(b"through the mesh")) {
            assert_eq!(answer, b"through the mesh");
        }
    }
    watch.saw_nothing();
}

/// Catches: an open connection that is led out of its tunnel.
#[test]
fn an_open_socket_keeps_its_way() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let watch = Watch::over(client);
    for family in FAMILIES {
        for (ordinary, mptcp) in [(true, false), (false, false), (false, true)] {
            let target = mesh.address("server", family, 8080);
            client.run(move || {
                if ordinary {
                    become_an_ordinary_user().unwrap();
                }
                let dial = if mptcp { Dial::to(target).mptcp() } else { Dial::to(target) };
                let mut stream = dial.connect().unwrap();
                let socket = SockRef::from(&stream).try_clone().unwrap();
                assert_all_refused(reroute(&socket, "eth0"));
                stream.write_all(b"still here").unwrap();
                stream.read_exact(&mut [0; 10]).unwrap();
            });
        }
    }
    assert!(mesh.daemon(1).verdict("reroute_refused").unwrap() > 0);
    watch.saw_nothing();
}

/// Catches: the escape that the mark alone left open: SO_BINDTODEVICE or SO_MARK in SYN_SENT, and the next SYN
/// leaves by eth0.
#[test]
fn a_socket_that_waits_for_its_handshake_keeps_its_way() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let watch = Watch::over(client);
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        // A daemon that does not run accepts nothing; when its queue is full, the next SYN waits.
        mesh.daemon(1).signal(Signal::SIGSTOP).unwrap();
        client.run(move || {
            let (waiting, _queue) = fill_queue(target);
            assert_all_refused(reroute(&waiting, "eth0"));
            // The first retransmission comes after a second.
            std::thread::sleep(Duration::from_millis(1500));
            assert!(waiting.peer_addr().is_err(), "it connected to somebody");
        });
        mesh.daemon(1).signal(Signal::SIGCONT).unwrap();
    }
    watch.saw_nothing();
}

/// Connects until one stays in SYN_SENT.
fn fill_queue(target: SocketAddr) -> (Socket, Vec<Socket>) {
    const MOST: usize = 12_000;
    let mut queue = Vec::new();
    while queue.len() < MOST {
        let socket = Dial::to(target).begin().expect("connecting");
        if socket.peer_addr().is_err() {
            return (socket, queue);
        }
        queue.push(socket);
    }
    panic!("a daemon that is stopped has taken {MOST} connections");
}

/// Catches: options that choose a way for one packet or one route.
#[test]
fn no_ip_option_chooses_another_way() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let watch = Watch::over(client);
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    client.run(move || {
        let index = i32::try_from(if_nametoindex("eth0").unwrap()).unwrap();
        become_an_ordinary_user().unwrap();
        for (target, level, option) in [
            (targets[0], libc::SOL_IP, libc::IP_UNICAST_IF),
            (targets[1], libc::SOL_IPV6, libc::IPV6_UNICAST_IF),
        ] {
            let socket = Dial::to(target).unconnected().unwrap();
            set_option(&socket, level, option, index.to_be()).unwrap();
            let _ = socket.connect_timeout(&target.into(), Duration::from_secs(2));
        }
    });
    watch.saw_nothing();
}

/// Catches: a socket that keeps our mark or device when it is used again for what is not captured.
#[test]
fn a_socket_used_again_goes_where_it_is_told() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    let _there = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let _here = Server::start(client, 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let (first, own) =
            (mesh.address("server", family, 8080), SocketAddr::new(client.ips()[family], 8080));
        client.run(move || {
            let stream = Dial::to(first).connect().unwrap();
            client::disconnect(&stream).unwrap();
            let socket = SockRef::from(&stream);
            socket.connect_timeout(&own.into(), Duration::from_secs(3)).expect("to itself");
            let mut stream = &stream;
            stream.write_all(b"me").unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
        });
    }
}

/// Catches: a mark that a pod with CAP_NET_ADMIN sets to pass as ours.
#[test]
fn our_mark_in_a_pods_hand_opens_nothing() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let client = mesh.pod("client");
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let watch = Watch::over(client);
    for family in FAMILIES {
        let dial = Dial::to(mesh.address("server", family, 8080)).mark(STEER_MARK);
        assert_eq!(client.run(move || dial.exchange(b"marked")).unwrap(), b"marked");
    }
    assert_eq!(mesh.daemon(1).verdict("forged_mark").unwrap(), 2);
    watch.saw_nothing();
}

fn run_in(place: &Place, line: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    let output = place.output(command).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Catches: tampering by CAP_NET_ADMIN that leads out, stays, or is not told.
#[test]
fn tampering_is_repaired_and_told_and_leads_nowhere() {
    let mesh = MeshPlan::new(&["client", "server"]).setting("inspectionInterval", "200ms").start().unwrap();
    let client = mesh.pod("client");
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let watch = Watch::over(client);
    for (line, finding) in [
        ("ip rule del fwmark 0x5a1; ip -6 rule del fwmark 0x5a1", "rule_missing"),
        ("ip route flush table 0x5a1; ip -6 route flush table 0x5a1", "route_missing"),
        ("echo 0 > /proc/sys/net/ipv4/tcp_fwmark_accept", "sysctl_changed"),
        ("ip rule add pref 0 fwmark 0x5a1 lookup main", "foreign_rule"),
    ] {
        run_in(client, line);
        for family in FAMILIES {
            let dial = Dial::to(mesh.address("server", family, 8080)).patience(Duration::from_millis(300));
            let _ = client.run(move || dial.exchange(b"now?"));
        }
        eventually(&format!("{finding} is told"), || {
            let told =
                |line: &serde_json::Value| line["finding"] == finding || line["fields"]["finding"] == finding;
            mesh.daemon(1).log_lines().unwrap().iter().any(told).then_some(())
        });
        for family in FAMILIES {
            let target = mesh.address("server", family, 8080);
            eventually(&format!("the mesh works again after `{line}`"), || {
                client.run(move || Dial::to(target).patience(Duration::from_secs(1)).exchange(b"again")).ok()
            });
        }
    }
    watch.saw_nothing();
}

/// Catches: a strict pod that takes plaintext from whoever manages to send it.
#[test]
fn a_strict_pod_refuses_plaintext() {
    let mesh = MeshPlan::new(&["client", "server"]).pod("server", |pod| pod.strict = true).start().unwrap();
    let server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        let dial = Dial::to(target);
        mesh.topology()
            .outside
            .run(move || dial.exchange(b"let me in"))
            .expect_err("plaintext got an answer");
        let line = last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["reason"], "plaintext_in_strict", "{line}");
        let dial = Dial::to(target);
        assert_eq!(mesh.pod("client").run(move || dial.exchange(b"with proof")).unwrap(), b"with proof");
    }
    assert_eq!(server.accepted(), 2);
}
