//! HTTP/2 frame by frame, so that a test may do what no library would. RFC 9113 and RFC 7541, as far as it takes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::PATIENCE;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_HEADERS: u8 = 4;
pub(super) const ACK: u8 = 1;

pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const CANCEL: u32 = 8;

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Frames {
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
}

impl Frames {
    /// Says the preface and SETTINGS, and acknowledges the server's.
    pub(super) async fn open(tls: TlsStream<TcpStream>) -> Self {
        let (reader, writer) = split(tls);
        let mut frames = Self { reader, writer };
        frames.writer.write_all(PREFACE).await.unwrap();
        frames.frame(SETTINGS, 0, 0, &[]).await.unwrap();
        frames.frame(SETTINGS, ACK, 0, &[]).await.unwrap();
        frames
    }

    /// Fails once the server has ended the connection.
    pub(super) async fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        self.writer.write_all(&encoded(kind, flags, stream, payload)).await?;
        self.writer.flush().await
    }

    pub(super) async fn headers(&mut self, stream: u32, headers: &[(&str, &str)]) {
        self.frame(HEADERS, END_HEADERS, stream, &block(headers)).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection, however it ends.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("a frame or the end").ok()
    }

    /// The frame of this stream that decides about it.
    pub(super) async fn next_of(&mut self, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection goes on");
            if frame.stream == stream && matches!(frame.kind, DATA | HEADERS | RST_STREAM) {
                return frame;
            }
        }
    }

    /// The error code of the RST_STREAM that answers.
    pub(super) async fn reset_of(&mut self, stream: u32) -> u32 {
        let frame = self.next_of(stream).await;
        assert_eq!(frame.kind, RST_STREAM, "{frame:?}");
        frame.code()
    }

    /// The status that answers, if it is one of HPACK's static table.
    pub(super) async fn status_of(&mut self, stream: u32) -> u16 {
        let frame = self.next_of(stream).await;
        assert_eq!(frame.kind, HEADERS, "{frame:?}");
        match frame.payload[0] {
            0x88 => 200,
            0x8c => 400,
            other => panic!("a header block that begins with {other:#x}"),
        }
    }

    /// Both directions' ends, to be used apart.
    pub(super) fn into_parts(self) -> (ReadHalf<TlsStream<TcpStream>>, WriteHalf<TlsStream<TcpStream>>) {
        (self.reader, self.writer)
    }

    async fn read(&mut self) -> std::io::Result<Frame> {
        let mut head = [0; 9];
        self.reader.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.reader.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], stream, payload })
    }
}

impl Frame {
    /// Of RST_STREAM.
    pub(super) fn code(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

pub(super) fn encoded(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Every header as a literal without indexing, RFC 7541 section 6.2.2.
pub(super) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// For the end of a header block: a large header, and thousands of references to it of one byte each. RFC 7541, section 7.3.
pub(super) fn hpack_bomb() -> Vec<u8> {
    let mut bomb = Vec::new();
    let header = block(&[("x", &"y".repeat(3_900))]);
    // As one that is put in the table, section 6.2.1, where it is entry 62.
    bomb.push(0x40);
    bomb.extend_from_slice(&header[1..]);
    bomb.extend_from_slice(&[0x80 | 62; 10_000]);
    bomb
}

/// With a prefix of seven bits, RFC 7541 section 5.1.
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).unwrap());
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    block.push(u8::try_from(value).unwrap());
}
