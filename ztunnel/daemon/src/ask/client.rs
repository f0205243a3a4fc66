//! As much of HTTP/1.1 as asking a daemon takes, over its Unix socket or over loopback.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::Question;
use crate::config::DEFAULT_ADMIN_SOCKET;

/// Between two parts of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_LINE: u64 = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Of an answer that says what is wrong.
const MAX_COMPLAINT: u64 = 4 << 10;
/// Of an answer that is read before it is shown.
const MAX_READ: u64 = 256 << 20;
const DEFAULT_PORT: u16 = 15000;

#[derive(clap::Args)]
pub(crate) struct Endpoint {
    /// Where the daemon is asked: `unix:PATH` or `IP:PORT` [default: its Unix socket, else 127.0.0.1:15000].
    #[arg(long, env = "ZTUNNEL_ADMIN", value_name = "ADDRESS", alias = "admin-address")]
    admin: Option<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Endpoint {
    /// Asks, and hands the answer on while it comes.
    pub(super) fn ask(&self, question: &Question, output: &mut dyn Write) -> anyhow::Result<()> {
        let (address, stream) = self.connect(question)?;
        let place = || format!("asking the daemon at {address}");
        let mut stream = BufReader::new(stream);
        let request = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            question.method,
            question.target()
        );
        stream.get_mut().write_all(request.as_bytes()).with_context(place)?;
        let head = Head::read(&mut stream).with_context(place)?;
        if head.status != 200 {
            let mut complaint = Vec::new();
            head.body(&mut stream, &mut (&mut complaint as &mut dyn Write), MAX_COMPLAINT)
                .with_context(place)?;
            bail!("the daemon at {address} says: {}", String::from_utf8_lossy(&complaint).trim_end());
        }
        head.body(&mut stream, output, u64::MAX).map_err(|error| match error.kind() {
            // Ours, not the daemon's: whoever reads has stopped.
            io::ErrorKind::BrokenPipe => error.into(),
            _ => anyhow::Error::new(error).context(place()),
        })
    }

    pub(super) fn text(&self, question: &Question) -> anyhow::Result<String> {
        let mut answer = Bounded(Vec::new());
        self.ask(question, &mut answer)?;
        String::from_utf8(answer.0).context("the daemon's answer is no text")
    }

    pub(crate) fn json(&self, question: &Question) -> anyhow::Result<Value> {
        serde_json::from_str(&self.text(question)?).context("understanding the daemon's answer")
    }

    /// The socket first, unless somewhere is named. Loopback tells the same, to whoever may not open the socket.
    fn connect(&self, question: &Question) -> anyhow::Result<(Address, Box<dyn Stream>)> {
        if let Some(address) = &self.admin {
            let stream = address.connect().with_context(|| nobody(address))?;
            return Ok((address.clone(), stream));
        }
        let socket = Address::Unix(DEFAULT_ADMIN_SOCKET.into());
        let loopback = Address::Tcp((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into());
        match socket.connect() {
            Ok(stream) => Ok((socket, stream)),
            Err(error) if question.writes() => {
                Err(error).with_context(|| format!("{}; changes need its socket, and root", nobody(&socket)))
            }
            Err(_) => match loopback.connect() {
                Ok(stream) => Ok((loopback, stream)),
                Err(error) => {
                    Err(error).with_context(|| format!("neither at {socket}; {}", nobody(&loopback)))
                }
            },
        }
    }
}

fn nobody(address: &Address) -> String {
    format!("no daemon answers at {address} (is it running on this node? name another place by --admin)")
}

impl Address {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() => Ok(Self::Unix(path.into())),
            Some(_) => Err("expected an absolute path after unix:".to_owned()),
            None => text.parse().map(Self::Tcp).map_err(|_| "expected unix:PATH or IP:PORT".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    fn read(stream: &mut impl BufRead) -> anyhow::Result<Self> {
        let first = line(stream)?;
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let mut head = Self {
            status: status.context("it does not answer as an HTTP server")?,
            length: None,
            chunked: false,
        };
        for _ in 0..MAX_HEADERS {
            let line = line(stream)?.to_ascii_lowercase();
            let Some((name, value)) = line.split_once(':') else {
                ensure!(line.is_empty(), "`{line}` is no header");
                return Ok(head);
            };
            match (name, value.trim()) {
                ("content-length", length) => head.length = Some(length.parse()?),
                ("transfer-encoding", coding) => head.chunked = coding == "chunked",
                _ => {}
            }
        }
        bail!("more than {MAX_HEADERS} headers")
    }

    /// An answer that breaks off is an error, and not a short answer.
    fn body(&self, stream: &mut impl BufRead, output: &mut dyn Write, most: u64) -> io::Result<()> {
        match self.length {
            _ if self.chunked => copy_chunks(stream, output, most),
            Some(length) => copy_exactly(stream, output, length.min(most)),
            None => io::copy(&mut stream.take(most), output).map(drop),
        }
    }
}

fn copy_chunks(stream: &mut impl BufRead, output: &mut dyn Write, most: u64) -> io::Result<()> {
    let mut left = most;
    loop {
        let size = line(stream)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 || left == 0 {
            return Ok(());
        }
        let shown = size.min(left);
        copy_exactly(stream, output, shown)?;
        left -= shown;
        if shown == size {
            line(stream)?;
        }
    }
}

fn copy_exactly(stream: &mut impl BufRead, output: &mut dyn Write, length: u64) -> io::Result<()> {
    let copied = io::copy(&mut stream.take(length), output)?;
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.take(MAX_LINE).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > MAX_READ {
            return Err(io::Error::other("the answer is too large; ask with filters or a limit"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str, most: u64) -> anyhow::Result<(u16, String)> {
        let mut stream = answer.as_bytes();
        let head = Head::read(&mut stream)?;
        let mut body = Vec::new();
        head.body(&mut stream, &mut body, most)?;
        Ok((head.status, String::from_utf8(body)?))
    }

    #[test]
    fn answers_of_every_length_are_read_and_broken_ones_are_errors() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(read(whole, u64::MAX).unwrap(), (200, "hello".to_owned()));
        assert_eq!(read(whole, 2).unwrap().1, "he");
        assert!(read(&whole[..whole.len() - 1], u64::MAX).is_err(), "cut short");
        let chunked =
            "HTTP/1.1 403 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        assert_eq!(read(chunked, u64::MAX).unwrap(), (403, "abcde".to_owned()));
        assert_eq!(read(chunked, 4).unwrap().1, "abcd");
        let broken = chunked.strip_suffix("0\r\n\r\n").unwrap();
        assert!(read(broken, u64::MAX).is_err(), "without its last chunk");
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\nto the end", u64::MAX).unwrap().1, "to the end");
        for nonsense in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
            assert!(read(nonsense, u64::MAX).is_err(), "{nonsense}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(1000));
        assert!(read(&endless, u64::MAX).is_err());
    }

    #[test]
    fn addresses_survive_their_text_form() {
        for text in ["unix:/run/x.sock", "127.0.0.1:15000", "[::1]:15000"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["unix:relative", "localhost", "15000"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
