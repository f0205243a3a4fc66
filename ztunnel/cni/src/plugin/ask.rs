//! Asking the daemon. Every step ends by the deadline, whatever the daemon does.

use std::{
    fs::File,
    io::{self, IoSlice, Read},
    mem::MaybeUninit,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};

use crate::wire::{Answer, LONGEST_ANSWER, LONGEST_REQUEST, Request};

/// Before it is tried again: the daemon has no room for one more, or is being replaced.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) enum Asked {
    Answered(Answer),
    /// And why.
    Unanswered(String),
}

pub(super) fn ask(socket: &Path, request: &Request, namespace: Option<&File>, deadline: Instant) -> Asked {
    loop {
        let answer = once(socket, request, namespace, deadline);
        let again = match &answer {
            Ok(Answer::Superseded) => true,
            // A full queue, and a daemon that went down while we asked: another may be there already.
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof),
            Ok(_) => false,
        };
        if !again || Instant::now() + PAUSE >= deadline {
            return answer.map_or_else(|error| Asked::Unanswered(why(socket, &error)), Asked::Answered);
        }
        thread::sleep(PAUSE);
    }
}

fn why(socket: &Path, error: &io::Error) -> String {
    format!("{}: {error}", socket.display())
}

fn once(socket: &Path, request: &Request, namespace: Option<&File>, deadline: Instant) -> io::Result<Answer> {
    let mut stream = open(socket)?;
    send(&stream, request, namespace)?;
    stream.shutdown(Shutdown::Write)?;
    let text = receive(&mut stream, deadline)?;
    if text.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up without an answer"));
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Not waiting: where the daemon's queue is full, connect(2) would wait without end.
fn open(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn send(stream: &UnixStream, request: &Request, namespace: Option<&File>) -> io::Result<()> {
    let text = serde_json::to_vec(request)?;
    if text.len() > LONGEST_REQUEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "names and addresses are too long"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = namespace.iter().map(|file| file.as_fd()).collect();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    // An empty socket's buffer takes it whole.
    match sendmsg(stream, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?
    {
        sent if sent == text.len() => Ok(()),
        sent => Err(io::Error::other(format!("only {sent} bytes of the request were taken"))),
    }
}

fn receive(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    while text.len() < LONGEST_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}
