//! What a pod tries in order to get around the mesh. Whatever becomes of the attempt: nothing leaves in plaintext.

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

mod before_connect;
mod on_the_way;
mod own_ports;
mod reuse;

/// What steered sockets carry; no secret.
const STEER_MARK: u32 = 0x5a1;
/// Where the pods' servers echo.
const TARGET: u16 = 8080;
/// Left out of the mesh: a connection there shows that the watch sees what leaves.
const OPEN: u16 = 7070;
const HBONE: u16 = 15008;
const MESSAGE: &[u8] = b"what must not be seen outside";
const PATIENCE: Duration = Duration::from_secs(5);

/// Who tries. Root is here more than an ordinary container's root, which has CAP_NET_RAW but not CAP_NET_ADMIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Ordinary,
    Root,
}

impl User {
    const ALL: [Self; 2] = [Self::Ordinary, Self::Root];

    /// Runs `work` inside `place` with this user's powers.
    fn run<T: Send + 'static>(self, place: &Place, work: impl FnOnce() -> T + Send + 'static) -> T {
        place.run(move || self.run_here(work))
    }

    /// Runs `work` with this user's powers on the calling thread, which keeps them.
    fn run_here<T>(self, work: impl FnOnce() -> T) -> T {
        if self == Self::Ordinary {
            become_an_ordinary_user().expect("giving up root's powers");
        }
        work()
    }
}

/// The pod `client`, what it would like to reach in plaintext, and a watch over all that leaves it.
struct Cage {
    mesh: Mesh,
    watch: Capture,
    _servers: [Server; 2],
}

impl Cage {
    fn close() -> Self {
        Self::around(plan().start().unwrap())
    }

    /// Over a mesh of [`plan`].
    fn around(mesh: Mesh) -> Self {
        let servers = [TARGET, OPEN].map(|port| echo_in(mesh.pod("server"), port));
        let watch = Capture::start(mesh.pod("client"), "eth0", Keep::Everything).unwrap();
        Self { mesh, watch, _servers: servers }
    }

    fn client(&self) -> &Pod {
        self.mesh.pod("client")
    }

    fn target(&self, family: usize) -> SocketAddr {
        self.mesh.address("server", family, TARGET)
    }

    fn open(&self, family: usize) -> SocketAddr {
        self.mesh.address("server", family, OPEN)
    }

    fn verdict(&self, name: &str) -> u64 {
        self.mesh.daemon(1).verdict(name).unwrap()
    }

    /// Nothing left but tunnels, and through them went `carried` connections (of IPv4, of IPv6) to the target.
    #[track_caller]
    fn assert_tight(self, carried: [usize; 2]) {
        for family in FAMILIES {
            let (target, carried) = (self.target(family), carried[family]);
            for direction in ["outbound", "inbound"] {
                let lines = eventually(&format!("{carried} {direction} connections to {target}"), || {
                    let lines = logged(self.mesh.daemon(1), direction, target);
                    (lines.len() >= carried).then_some(lines)
                });
                assert_eq!(lines.len(), carried, "{direction} connections to {target}: {lines:#?}");
                assert!(lines.iter().all(|line| line["path"] == "hbone"), "{lines:#?}");
            }
            let dial = Dial::to(self.open(family));
            assert_eq!(self.client().run(move || dial.exchange(MESSAGE)).unwrap(), MESSAGE);
        }
        let open = FAMILIES.map(|family| self.open(family));
        let recording = self.watch.stop().unwrap();
        recording.complete().unwrap();
        assert!(open.iter().all(|address| recording.syns_to(*address) > 0), "the watch is blind");
        let escaped: Vec<&Segment> = recording.segments.iter().filter(|segment| is_plain(segment)).collect();
        assert!(escaped.is_empty(), "{} segments escaped, such as {:?}", escaped.len(), escaped[0]);
    }
}

fn plan() -> MeshPlan {
    MeshPlan::new(&["client server"]).pod("client", |pod| pod.exclude_outbound_ports = vec![OPEN])
}

fn echo_in(pod: &Pod, port: u16) -> Server {
    Server::start(pod, port, Behaviour::Echo).unwrap()
}

/// Neither of a tunnel nor of the port left open. Replies and resets count as much as connection attempts.
fn is_plain(segment: &Segment) -> bool {
    let ports = [segment.source.port(), segment.destination.port()];
    !ports.contains(&HBONE) && !ports.contains(&OPEN)
}

/// Connects a prepared socket and has a message echoed.
fn exchange(socket: Socket, target: SocketAddr, patience: Duration) -> io::Result<Vec<u8>> {
    socket.connect_timeout(&SockAddr::from(target), patience)?;
    echoed(&open_stream(socket)?)
}

fn open_stream(socket: Socket) -> io::Result<TcpStream> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn echoed(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    stream.write_all(MESSAGE)?;
    let mut answer = vec![0; MESSAGE.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
