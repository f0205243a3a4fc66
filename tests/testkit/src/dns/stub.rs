//! A stub resolver for tests, and the rules by which a CNI sends a pod's DNS to the proxy.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{CLASS_IN, HEADER_BYTES, TYPE_A, TYPE_AAAA};
use crate::Place;

const PATIENCE: Duration = Duration::from_secs(10);

/// As istio-cni has it for a pod with DNS capture, in the form of nft(8): port 53 to 15053, but for what carries the
/// proxy's mark; the proxy's own requests in a zone of their own, so that the two are never taken for one.
const RULES: &str = "
add table inet cni
add chain inet cni raw_output { type filter hook output priority raw; }
add chain inet cni raw_prerouting { type filter hook prerouting priority raw; }
add chain inet cni nat_output { type nat hook output priority -100; }
add rule inet cni raw_output udp dport 53 meta mark & 0xfff == 0x539 ct zone set 1
add rule inet cni raw_prerouting udp sport 53 meta mark & 0xfff != 0x539 ct zone set 1
add rule inet cni nat_output oifname != lo udp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
add rule inet cni nat_output ip daddr != 127.0.0.1 tcp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
add rule inet cni nat_output ip6 daddr != ::1 tcp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
";

/// Redirects the place's DNS as a CNI would.
pub fn redirect(place: &Place) -> Result<()> {
    let mut nft = Command::new("nft");
    nft.arg(RULES);
    let output = place.output(nft)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft in {}: {said}", place.name());
    Ok(())
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    name: String,
    kind: u16,
    over_tcp: bool,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub code: u8,
    pub truncated: bool,
    pub ips: Vec<IpAddr>,
}

impl Ask {
    /// For an address of the family of `server`, which [`Ask::of`] asks.
    pub fn name(name: &str) -> Self {
        Self { name: name.to_owned(), kind: 0, over_tcp: false }
    }

    pub fn v4(mut self) -> Self {
        self.kind = TYPE_A;
        self
    }

    pub fn v6(mut self) -> Self {
        self.kind = TYPE_AAAA;
        self
    }

    pub fn over_tcp(mut self) -> Self {
        self.over_tcp = true;
        self
    }

    /// Asks inside a place, once.
    pub fn of(&self, place: &Place, server: SocketAddr) -> io::Result<Told> {
        let ask = self.clone();
        place.run(move || ask.here(server))
    }

    /// Asks from where the thread is.
    pub fn here(&self, server: SocketAddr) -> io::Result<Told> {
        let kind = match self.kind {
            0 if server.is_ipv4() => TYPE_A,
            0 => TYPE_AAAA,
            kind => kind,
        };
        let message = question(&self.name, kind);
        let answer =
            if self.over_tcp { by_stream(&message, server)? } else { by_datagram(&message, server)? };
        told(&message, &answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no answer to this"))
    }
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x5a, 0xa5, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

fn by_datagram(message: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // From then on an answer from anybody but the server that was asked is none.
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(message)?;
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn by_stream(message: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// `None` if it is no answer to `message`.
fn told(message: &[u8], answer: &[u8]) -> Option<Told> {
    let header = answer.get(..HEADER_BYTES)?;
    let is_answer = header[..2] == message[..2] && header[2] & 0x80 != 0;
    if !is_answer || answer.get(HEADER_BYTES..message.len())? != &message[HEADER_BYTES..] {
        return None;
    }
    let count = u16::from_be_bytes([header[6], header[7]]);
    let mut rest = answer.get(message.len()..)?;
    let mut ips = Vec::new();
    for _ in 0..count {
        rest = after_name(rest)?;
        let length = usize::from(u16::from_be_bytes([*rest.get(8)?, *rest.get(9)?]));
        let data = rest.get(10..10 + length)?;
        match (u16::from_be_bytes([rest[0], rest[1]]), data.len()) {
            (TYPE_A, 4) => ips.push(<[u8; 4]>::try_from(data).ok()?.into()),
            (TYPE_AAAA, 16) => ips.push(<[u8; 16]>::try_from(data).ok()?.into()),
            _ => {}
        }
        rest = rest.get(10 + length..)?;
    }
    ips.sort();
    Some(Told { code: header[3] & 0x0f, truncated: header[2] & 0x02 != 0, ips })
}

fn after_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        match *bytes.first()? {
            0 => return bytes.get(1..),
            0xc0.. => return bytes.get(2..),
            length => bytes = bytes.get(1 + usize::from(length)..)?,
        }
    }
}
