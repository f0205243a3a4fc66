//! As much of HTTP/1.1 as asking a daemon takes.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::Place;

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks the loopback address inside `place`.
pub(super) fn get(place: &Place, port: u16, path: &str) -> Result<Answer> {
    ask_for(place, port, "GET", path)
}

pub(super) fn ask_for(place: &Place, port: u16, method: &str, path: &str) -> Result<Answer> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let text = place
        .run(move || ask(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &request))
        .with_context(|| format!("asking {}:{port}{path}", place.name()))?;
    parse(&text).with_context(|| format!("{path} answered {text:?}"))
}

/// Status and body; HTTP/1.0, whose answers end with the connection.
pub(super) fn over_socket(socket: &Path, method: &str, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    // A profile takes its time.
    stream.set_read_timeout(Some(PATIENCE * 4))?;
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, answer.split_off(end + 4)))
}

fn ask(server: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { join_chunks(body)? } else { body.to_owned() };
    Some(Answer { status, body })
}

fn join_chunks(mut text: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, rest) = text.split_once("\r\n")?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(rest.get(..length)?);
        text = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_body_are_read() {
        let plain = parse("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (200, "ok"));
        let chunked =
            "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n";
        let chunked = parse(chunked).unwrap();
        assert_eq!((chunked.status, chunked.body.as_str()), (503, "abc0123456789"));
    }
}
