//! A name server for tests: it knows a few names and remembers who asked (RFC 1035, section 4).

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::Place;

mod stub;

pub use stub::{Ask, Told, redirect};

const PORT: u16 = 53;
const HEADER_BYTES: usize = 12;
const LIFETIME_SECONDS: u32 = 1;
const NO_SUCH_NAME: u8 = 3;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// The longest answer in a datagram.
const MAX_DATAGRAM: usize = 512;
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon it notices that it shall end.
const POLL: Duration = Duration::from_millis(50);

/// Answers until dropped, over both families.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    asked: AtomicU64,
    clients: Mutex<Vec<SocketAddr>>,
    /// It hears, and says nothing.
    silent: AtomicBool,
    stopped: AtomicBool,
}

impl NameServer {
    /// Listens inside `place` on port 53. It knows nobody yet.
    pub fn start(place: &Place) -> Result<Self> {
        let socket = place.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)));
        let socket = socket.with_context(|| format!("a name server in {}", place.name()))?;
        socket.set_read_timeout(Some(POLL))?;
        let listener = place.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let (answering, accepting) = (Arc::clone(&shared), Arc::clone(&shared));
        let datagrams = place.spawn(move || answering.answer_all(&socket));
        let streams = place.spawn(move || accepting.accept_all(&listener));
        Ok(Self { shared, threads: vec![datagrams, streams] })
    }

    /// From now on `name` has these addresses.
    pub fn set(&self, name: &str, ips: &[IpAddr]) {
        let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned(), ips.to_vec());
    }

    /// From now on it answers nobody.
    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    /// Where questions came from.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many questions came.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn answer_all(&self, socket: &UdpSocket) {
        let mut bytes = [0; 1500];
        while !self.stopped.load(Ordering::Relaxed) {
            let Ok((length, client)) = socket.recv_from(&mut bytes) else { continue };
            let Some(mut answer) = self.answer(&bytes[..length], client) else { continue };
            if answer.len() > MAX_DATAGRAM {
                answer.truncate(length);
                answer[2] |= 0x02;
                answer[6..HEADER_BYTES].fill(0);
            }
            if let Err(error) = socket.send_to(&answer, client) {
                eprintln!("a test's name server: {error}");
            }
        }
    }

    fn accept_all(&self, listener: &TcpListener) {
        while !self.stopped.load(Ordering::Relaxed) {
            match listener.accept() {
                // Whoever goes away early has its reasons.
                Ok((stream, client)) => drop(self.converse(stream, client)),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// One question, one answer.
    fn converse(&self, mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut request)?;
        let Some(answer) = self.answer(&request, client) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())
    }

    fn answer(&self, request: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        if self.silent.load(Ordering::Relaxed) {
            return None;
        }
        let (name, kind, question) = parse(request)?;
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(&name);
        let wanted = |ip: &&IpAddr| kind == if ip.is_ipv4() { TYPE_A } else { TYPE_AAAA };
        let found: Vec<&IpAddr> = known.into_iter().flatten().filter(wanted).collect();
        let code = if known.is_some() { 0 } else { NO_SUCH_NAME };
        Some(response(request, question, code, &found))
    }
}

/// The name and type asked for, and the question's bytes.
fn parse(request: &[u8]) -> Option<(String, u16, &[u8])> {
    let mut rest = request.get(HEADER_BYTES..)?;
    let mut labels = Vec::new();
    loop {
        let (&length, after) = rest.split_first()?;
        if length == 0 {
            let kind = u16::from_be_bytes(after.get(..2)?.try_into().ok()?);
            let end = request.len() - after.len() + 4;
            return Some((labels.join("."), kind, request.get(HEADER_BYTES..end)?));
        }
        labels.push(String::from_utf8_lossy(after.get(..length.into())?).to_lowercase());
        rest = after.get(length.into()..)?;
    }
}

fn response(request: &[u8], question: &[u8], code: u8, ips: &[&IpAddr]) -> Vec<u8> {
    let count = u16::try_from(ips.len()).unwrap_or_default();
    // Identity; response, recursion desired and available; counts of questions, answers, authorities, additions.
    let mut bytes = vec![request[0], request[1], 0x81, 0x80 | code];
    for number in [1, count, 0, 0] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(question);
    for ip in ips {
        let (kind, data) = match ip {
            IpAddr::V4(ip) => (TYPE_A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (TYPE_AAAA, ip.octets().to_vec()),
        };
        // A pointer to the question's name.
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        bytes.extend(LIFETIME_SECONDS.to_be_bytes());
        bytes.extend([0, if ip.is_ipv4() { 4 } else { 16 }]);
        bytes.extend(data);
    }
    bytes
}
