//! What the wire really carried: a packet socket on one interface, parsed into TCP segments.
//!
//! A capture is evidence of absence only if it saw everything: whatever was lost is counted, and then
//! [`Recording::complete`] is an error.

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result, bail};
use socket2::Socket;

use crate::Place;

mod filter;
mod packet_socket;
mod segment;
mod stream;
pub mod tls;

pub use segment::{Flags, Segment};
pub use stream::Stream;

/// The port of HBONE: what goes there is encrypted.
const HBONE_PORT: u16 = 15008;
/// The largest frame that offloads produce, and room for headers.
const FRAME_BYTES: usize = 256 << 10;
/// A test that records more wants [`Keep::Syns`].
const MAX_PAYLOAD_BYTES: usize = 256 << 20;

/// What the kernel hands to the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Everything,
    /// Segments with SYN, for long runs.
    Syns,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Recording>>>,
}

/// What a capture saw.
#[derive(Debug, Default)]
pub struct Recording {
    pub segments: Vec<Segment>,
    /// Frames that the kernel had no room for.
    pub dropped: u64,
    /// Payload that was over the capture's own limit.
    pub discarded_bytes: usize,
    payload_bytes: usize,
}

impl Capture {
    /// Every frame that enters or leaves `interface` from now on.
    pub fn start(place: &Place, interface: &str, keep: Keep) -> Result<Self> {
        let name = interface.to_owned();
        let socket = place
            .run(move || packet_socket::open(&name, keep))
            .with_context(|| format!("capturing on {interface}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("capture".to_owned()).spawn(move || record(&socket, &told))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    pub fn stop(mut self) -> Result<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("already stopped")?;
        thread.join().map_err(|_| anyhow::anyhow!("the capture thread panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Recording {
    /// Fails if the capture missed anything: then it proves no absence.
    pub fn complete(&self) -> Result<()> {
        if self.dropped > 0 || self.discarded_bytes > 0 {
            bail!("the capture lost {} frames and {} bytes", self.dropped, self.discarded_bytes);
        }
        Ok(())
    }

    /// Connection attempts from `source` that are not to HBONE's port.
    pub fn plaintext_syns_from(&self, source: IpAddr) -> Vec<&Segment> {
        let attempt = |segment: &&Segment| segment.flags.syn && !segment.flags.ack;
        let plain = |segment: &&Segment| segment.destination.port() != HBONE_PORT;
        self.segments.iter().filter(attempt).filter(plain).filter(|s| s.source.ip() == source).collect()
    }

    /// Connection attempts to `destination`.
    pub fn syns_to(&self, destination: SocketAddr) -> usize {
        let attempt = |s: &&Segment| s.flags.syn && !s.flags.ack && s.destination == destination;
        self.segments.iter().filter(attempt).count()
    }

    /// Whether these bytes were there in clear, in one frame or across several.
    pub fn contains(&self, marker: &[u8]) -> bool {
        let finds = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker);
        self.segments.iter().any(|segment| finds(&segment.payload))
            || self.streams().iter().any(|stream| finds(&stream.bytes))
    }

    /// Each direction of each connection, put together.
    pub fn streams(&self) -> Vec<Stream> {
        stream::assemble(&self.segments)
    }

    /// The connections to HBONE's port.
    pub fn tunnels(&self) -> Vec<tls::Connection> {
        tls::connections(&self.streams(), HBONE_PORT)
    }

    fn keep(&mut self, segment: Segment) {
        if self.payload_bytes + segment.payload.len() > MAX_PAYLOAD_BYTES {
            self.discarded_bytes += segment.payload.len();
            return;
        }
        self.payload_bytes += segment.payload.len();
        self.segments.push(segment);
    }
}

fn record(socket: &Socket, stop: &AtomicBool) -> Result<Recording> {
    let mut recording = Recording::default();
    let mut frame = vec![0; FRAME_BYTES];
    loop {
        // Looked at before the socket: when told to stop, what had arrived by then is still read.
        let stopping = stop.load(Ordering::Relaxed);
        let mut reader = socket;
        match reader.read(&mut frame) {
            Ok(length) => {
                if let Some(segment) = Segment::parse(&frame[..length]) {
                    recording.keep(segment);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if stopping {
                    recording.dropped = packet_socket::dropped(socket)?;
                    return Ok(recording);
                }
            }
            Err(error)
                if error.raw_os_error() == Some(libc::ENETDOWN)
                    || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading the packet socket"),
        }
    }
}
