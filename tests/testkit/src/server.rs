//! Servers for tests: one behaviour each, and they remember whom they saw.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{Place, pattern};

const BACKLOG: i32 = 4096;
/// Thousands of connections have a thread each.
const STACK_BYTES: usize = 128 << 10;

/// What a server does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends back what it reads, until the client is done.
    Echo,
    /// Reads until the client has finished its side, then answers with all of it.
    AnswerAfterEnd,
    /// Says [`GREETING`], finishes its own side, and reads on.
    GreetAndFinish,
    /// Says whom it sees: `<client> <itself>` and a line feed.
    Report,
    /// Never reads.
    Hold,
    /// Resets the connection once a byte has come.
    Reset,
    /// Sends this many bytes of the [`pattern`].
    Send(u64),
    /// Checks what comes against the [`pattern`] and answers with the number of bytes that were right.
    Check,
}

pub const GREETING: &[u8] = b"goodbye from me";

/// Listens until dropped, over both families.
#[derive(Debug)]
pub struct Server {
    port: u16,
    listener: Arc<TcpListener>,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Client and own address of each connection, as `accept` and `getsockname` tell.
    ends: Mutex<Vec<(SocketAddr, SocketAddr)>>,
    open: Mutex<Vec<Weak<TcpStream>>>,
    received: AtomicU64,
    resets: AtomicU64,
}

impl Server {
    /// Listens inside `place` on `port`, or on a free port if that is 0.
    pub fn start(place: &Place, port: u16, behaviour: Behaviour) -> Result<Self> {
        let listener = place.run(move || listen(port)).with_context(|| format!("in {}", place.name()))?;
        let listener = Arc::new(listener);
        let seen = Arc::new(Seen::default());
        let (port, accepting, seeing) =
            (listener.local_addr()?.port(), Arc::clone(&listener), Arc::clone(&seen));
        let thread = place.spawn(move || accept_all(&accepting, &seeing, behaviour));
        Ok(Self { port, listener, seen, thread: Some(thread) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The clients, as the application sees them.
    pub fn clients(&self) -> Vec<SocketAddr> {
        lock(&self.seen.ends).iter().map(|(client, _)| *client).collect()
    }

    pub fn accepted(&self) -> usize {
        lock(&self.seen.ends).len()
    }

    /// Bytes read so far, of all connections.
    pub fn received(&self) -> u64 {
        self.seen.received.load(Ordering::Relaxed)
    }

    /// Connections that ended with ECONNRESET.
    pub fn resets(&self) -> u64 {
        self.seen.resets.load(Ordering::Relaxed)
    }

    pub fn open(&self) -> usize {
        lock(&self.seen.open).iter().filter(|stream| stream.strong_count() > 0).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes `accept`; the port is closed once nobody holds the listener.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in lock(&self.seen.open).iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn accept_all(listener: &TcpListener, seen: &Arc<Seen>, behaviour: Behaviour) {
    let mut held = Vec::new();
    while let Ok((stream, client)) = listener.accept() {
        let stream = Arc::new(stream);
        let own = stream.local_addr().map(canonical).unwrap_or(client);
        lock(&seen.ends).push((canonical(client), own));
        lock(&seen.open).push(Arc::downgrade(&stream));
        if behaviour == Behaviour::Hold {
            held.push(stream);
            continue;
        }
        let seen = Arc::clone(seen);
        let serve = move || seen.note(serve(&stream, &seen, behaviour));
        if thread::Builder::new().stack_size(STACK_BYTES).spawn(serve).is_err() {
            eprintln!("a test server is out of threads");
        }
    }
}

impl Seen {
    fn note(&self, result: io::Result<()>) {
        if result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads and counts; an empty slice is the end.
    fn read<'a>(&self, mut stream: &TcpStream, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = stream.read(buffer)?;
        self.received.fetch_add(length as u64, Ordering::Relaxed);
        Ok(&buffer[..length])
    }

    fn read_to_end(&self, stream: &TcpStream) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match self.read(stream, &mut buffer)? {
                [] => return Ok(all),
                bytes => all.extend_from_slice(bytes),
            }
        }
    }
}

fn serve(mut stream: &TcpStream, seen: &Seen, behaviour: Behaviour) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    match behaviour {
        Behaviour::Echo => loop {
            match seen.read(stream, &mut buffer)? {
                [] => return Ok(()),
                bytes => stream.write_all(bytes)?,
            }
        },
        Behaviour::AnswerAfterEnd => stream.write_all(&seen.read_to_end(stream)?),
        Behaviour::GreetAndFinish => {
            stream.write_all(GREETING)?;
            stream.shutdown(Shutdown::Write)?;
            seen.read_to_end(stream).map(drop)
        }
        Behaviour::Report => {
            let (client, own) = (canonical(stream.peer_addr()?), canonical(stream.local_addr()?));
            stream.write_all(format!("{client} {own}\n").as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            seen.read_to_end(stream).map(drop)
        }
        Behaviour::Hold => Ok(()),
        Behaviour::Reset => {
            seen.read(stream, &mut buffer)?;
            SockRef::from(stream).set_linger(Some(Duration::ZERO))
        }
        Behaviour::Send(length) => pattern::send(stream, length),
        Behaviour::Check => {
            let right = pattern::check(stream)?;
            seen.received.fetch_add(right, Ordering::Relaxed);
            stream.write_all(right.to_string().as_bytes())
        }
    }
}

/// An IPv4 client of a dual-stack socket looks like `::ffff:a.b.c.d`.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
