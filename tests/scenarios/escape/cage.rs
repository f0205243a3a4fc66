//! A pod under watch: what it sends in plaintext is seen.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{SockAddr, Socket};
use testkit::{
    Mesh, MeshPlan, Place, Pod,
    capture::{Capture, Keep, Segment},
    client::{Dial, become_an_ordinary_user},
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, logged};

/// What steered sockets carry; no secret.
pub(crate) const STEER_MARK: u32 = 0x5a1;
/// Where the pods' servers echo.
pub(crate) const TARGET: u16 = 8080;
/// Left out of the mesh: a connection there shows that the watch sees what leaves.
pub(crate) const OPEN: u16 = 7070;
pub(crate) const HBONE: u16 = 15008;
pub(crate) const MESSAGE: &[u8] = b"what must not be seen outside";
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Who tries. Root is here more than an ordinary container's root, which has CAP_NET_RAW but not CAP_NET_ADMIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Ordinary,
    Root,
}

impl User {
    pub(crate) const ALL: [Self; 2] = [Self::Ordinary, Self::Root];

    /// Runs `work` inside `place` with this user's powers.
    pub(crate) fn run<T: Send + 'static>(
        self,
        place: &Place,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        place.run(move || self.run_here(work))
    }

    /// Runs `work` with this user's powers on the calling thread, which keeps them.
    pub(crate) fn run_here<T>(self, work: impl FnOnce() -> T) -> T {
        if self == Self::Ordinary {
            become_an_ordinary_user().expect("giving up root's powers");
        }
        work()
    }
}

/// The pod `client`, what it would like to reach in plaintext, and a watch over all that leaves it.
pub(crate) struct Cage {
    pub(crate) mesh: Mesh,
    watch: Capture,
    _servers: [Server; 2],
}

impl Cage {
    pub(crate) fn close() -> Self {
        Self::around(plan().start().unwrap())
    }

    /// Over a mesh of [`plan`].
    pub(crate) fn around(mesh: Mesh) -> Self {
        let servers = [TARGET, OPEN].map(|port| echo_in(mesh.pod("server"), port));
        let watch = Capture::start(mesh.pod("client"), "eth0", Keep::Everything).unwrap();
        Self { mesh, watch, _servers: servers }
    }

    pub(crate) fn client(&self) -> &Pod {
        self.mesh.pod("client")
    }

    pub(crate) fn target(&self, family: usize) -> SocketAddr {
        self.mesh.address("server", family, TARGET)
    }

    pub(crate) fn open(&self, family: usize) -> SocketAddr {
        self.mesh.address("server", family, OPEN)
    }

    pub(crate) fn verdict(&self, name: &str) -> u64 {
        self.mesh.daemon(1).verdict(name).unwrap()
    }

    /// Through tunnels, and in no other way, went this many connections (of IPv4, of IPv6) to the target.
    #[track_caller]
    pub(crate) fn assert_carried(&self, carried: [usize; 2]) {
        for (target, carried) in FAMILIES.map(|family| (self.target(family), carried[family])) {
            for direction in ["outbound", "inbound"] {
                let lines = eventually(&format!("{carried} {direction} connections to {target}"), || {
                    let lines = logged(self.mesh.daemon(1), direction, target);
                    (lines.len() >= carried).then_some(lines)
                });
                assert_eq!(lines.len(), carried, "{direction} connections to {target}: {lines:#?}");
                assert!(lines.iter().all(|line| line["path"] == "hbone"), "{lines:#?}");
            }
        }
    }

    /// Nothing left but tunnels.
    #[track_caller]
    pub(crate) fn assert_tight(self) {
        let open = FAMILIES.map(|family| self.open(family));
        for dial in open.map(Dial::to) {
            assert_eq!(self.client().run(move || dial.exchange(MESSAGE)).unwrap(), MESSAGE);
        }
        let recording = self.watch.stop().unwrap();
        recording.complete().unwrap();
        assert!(open.iter().all(|address| recording.syns_to(*address) > 0), "the watch is blind");
        let escaped: Vec<&Segment> = recording.segments.iter().filter(|segment| is_plain(segment)).collect();
        assert!(escaped.is_empty(), "{} segments escaped, such as {:?}", escaped.len(), escaped[0]);
    }
}

pub(crate) fn plan() -> MeshPlan {
    MeshPlan::new(&["client server"]).pod("client", |pod| pod.exclude_outbound_ports = vec![OPEN])
}

pub(crate) fn echo_in(pod: &Pod, port: u16) -> Server {
    Server::start(pod, port, Behaviour::Echo).unwrap()
}

/// Neither of a tunnel nor of the port left open. Replies and resets count as much as connection attempts.
fn is_plain(segment: &Segment) -> bool {
    let ports = [segment.source.port(), segment.destination.port()];
    !ports.contains(&HBONE) && !ports.contains(&OPEN)
}

/// Connects a prepared socket and has a message echoed.
pub(crate) fn exchange(socket: Socket, target: SocketAddr, patience: Duration) -> io::Result<Vec<u8>> {
    socket.connect_timeout(&SockAddr::from(target), patience)?;
    echoed(&open_stream(socket)?)
}

pub(crate) fn open_stream(socket: Socket) -> io::Result<TcpStream> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

pub(crate) fn echoed(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    stream.write_all(MESSAGE)?;
    let mut answer = vec![0; MESSAGE.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
