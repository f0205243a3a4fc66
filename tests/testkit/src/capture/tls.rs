//! Just enough of TLS (RFC 8446) to say what a connection is: its records and the version agreed on.

use std::net::SocketAddr;

use super::Stream;

pub const TLS_1_3: u16 = 0x0304;

const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;
/// RFC 8446, section 5.2: 2^14 bytes, and 256 for the cipher.
const MAX_RECORD: usize = (1 << 14) + 256;

/// A connection to a port where TLS is expected.
#[derive(Clone, Debug)]
pub struct Connection {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// What the server chose.
    pub version: Option<u16>,
    /// Whether both directions are nothing but TLS records.
    pub only_records: bool,
    /// Bytes of encrypted records, both directions.
    pub encrypted_bytes: usize,
}

impl Connection {
    pub fn is_tls_1_3(&self) -> bool {
        self.version == Some(TLS_1_3) && self.only_records && self.encrypted_bytes > 0
    }
}

pub(super) fn connections(streams: &[Stream], port: u16) -> Vec<Connection> {
    let mut unanswered: Vec<&Stream> = streams.iter().filter(|stream| stream.source.port() == port).collect();
    let to_port = streams.iter().filter(|stream| stream.destination.port() == port);
    to_port
        .map(|client| {
            let is_answer =
                |stream: &&Stream| stream.source == client.destination && stream.destination == client.source;
            let answer = unanswered.iter().position(is_answer).map(|index| unanswered.remove(index));
            connection(client, answer.map_or(&[], |stream| &stream.bytes))
        })
        .collect()
}

fn connection(client: &Stream, answer: &[u8]) -> Connection {
    let directions = [records(&client.bytes), records(answer)];
    let encrypted = |record: &&Record<'_>| record.kind == APPLICATION_DATA;
    Connection {
        client: client.source,
        server: client.destination,
        version: server_version(answer),
        only_records: directions.iter().all(Option::is_some),
        encrypted_bytes: directions.iter().flatten().flatten().filter(encrypted).map(|r| r.body.len()).sum(),
    }
}

struct Record<'a> {
    kind: u8,
    /// Shorter than announced where the capture ends.
    body: &'a [u8],
}

/// `None` if the bytes are anything but TLS records; the last may be cut short.
fn records(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while let [kind, 3, minor, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !(20..=23).contains(kind) || !matches!(minor, 1 | 3) || length > MAX_RECORD {
            return None;
        }
        let (body, rest) = rest.split_at(length.min(rest.len()));
        records.push(Record { kind: *kind, body });
        bytes = rest;
    }
    (bytes.len() < RECORD_HEADER).then_some(records)
}

/// The version in the ServerHello's supported_versions.
fn server_version(bytes: &[u8]) -> Option<u16> {
    let first = records(bytes)?.into_iter().next()?;
    let [SERVER_HELLO, _, _, _, hello @ ..] = first.body else { return None };
    if first.kind != HANDSHAKE {
        return None;
    }
    // legacy_version 2, random 32, then the session id with its length.
    let session = usize::from(*hello.get(34)?);
    // cipher suite 2, compression 1, length of the extensions 2.
    let mut extensions = hello.get(35 + session + 5..)?;
    while let [a, b, c, d, rest @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let body = rest.get(..length)?;
        if u16::from_be_bytes([*a, *b]) == SUPPORTED_VERSIONS {
            return Some(u16::from_be_bytes(body.try_into().ok()?));
        }
        extensions = &rest[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3, length[0], length[1]], body].concat()
    }

    fn server_hello(version: &[u8]) -> Vec<u8> {
        let mut hello = vec![SERVER_HELLO, 0, 0, 0, 3, 3];
        hello.extend([7; 32]);
        hello.extend([2, 9, 9]);
        hello.extend([0x13, 0x02, 0, 0, 0]);
        hello.extend([0, 51, 0, 2, 1, 1]);
        hello.extend([0, 43, 0, 2]);
        hello.extend(version);
        record(HANDSHAKE, &hello)
    }

    #[test]
    fn the_version_is_the_one_that_the_server_chose() {
        assert_eq!(server_version(&server_hello(&[3, 4])), Some(TLS_1_3));
        assert_eq!(server_version(&record(HANDSHAKE, &[SERVER_HELLO, 0, 0])), None);
        assert_eq!(server_version(b"HTTP/1.1 200 OK"), None);
    }

    /// Fails if plaintext after a proper beginning would pass for TLS.
    #[test]
    fn only_records_means_to_the_last_byte() {
        let proper = [server_hello(&[3, 4]), record(APPLICATION_DATA, b"secret")].concat();
        assert_eq!(records(&proper).unwrap().len(), 2);
        assert_eq!(records(&proper[..proper.len() - 3]).unwrap().len(), 2);
        assert!(records(&[proper.as_slice(), b"GET / HTTP/1.1\r\n"].concat()).is_none());
    }
}
