//! Floods of frames that cost us work and the peer nothing: PING and SETTINGS, which are to be answered, WINDOW_UPDATE and
//! PRIORITY, which are to be noted, DATA without data (CVE-2019-9512, 9513, 9515, 9518). HTTP/2's implementation bounds
//! what they make it keep, not what they make it do, and a peer that reads the answers could go on for ever.
//!
//! This stream looks at the heads of the frames that pass. Each such frame costs a token; tokens come with time, with
//! requests, and with the bytes that are carried in either direction, as honest peers have an occasion for theirs. Who has
//! none left has the connection broken. A server makes no requests, we do: its header blocks cost a token each, as it may
//! send any number of them that say that the answer is yet to come (RFC 9110, section 15.2).

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::window::Gauge;

/// Tokens for each request, beside the answer to it,
const PER_REQUEST: u64 = 4;
/// and one for so many bytes that were carried. Peers that are thrifty with windows update them for every 4 KiB, twice.
const BYTES_PER_TOKEN: u64 = 512;

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD: usize = 9;
/// Frame types of RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// What a peer may send of such frames without an occasion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSettings {
    /// At once,
    pub burst: u64,
    /// and every second.
    pub per_second: u64,
}

impl Default for FrameSettings {
    fn default() -> Self {
        Self { burst: 2000, per_second: 200 }
    }
}

/// Why a connection was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many {} frames for nothing", name_of(*.0))]
pub struct Flood(u8);

/// A stream whose peer is a client, or a server if it says no preface.
#[derive(Debug)]
pub(crate) struct Watchful<T> {
    stream: T,
    /// Bytes to pass over until the next frame's head.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    tokens: Tokens,
    /// What we ask of a server.
    asked: Option<Asked>,
    found: Found,
}

/// The requests that are made of a server, as far as they have not been looked at.
#[derive(Debug)]
struct Asked {
    gauge: Arc<Gauge>,
    before: u32,
}

#[derive(Debug)]
struct Tokens {
    settings: FrameSettings,
    left: u64,
    since: Instant,
    /// Bytes carried that have not made a token yet.
    bytes: u64,
}

/// The flood that ended a connection, if one did: HTTP/2 reduces the I/O error that says so to text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(Arc<OnceLock<Flood>>);

impl Found {
    pub(crate) fn flood(&self) -> Option<Flood> {
        self.0.get().copied()
    }
}

fn name_of(kind: u8) -> &'static str {
    match kind {
        DATA => "empty DATA",
        HEADERS => "HEADERS",
        2 => "PRIORITY",
        3 => "RST_STREAM",
        4 => "SETTINGS",
        6 => "PING",
        7 => "GOAWAY",
        8 => "WINDOW_UPDATE",
        9 => "CONTINUATION",
        _ => "unknown",
    }
}

impl<T> Watchful<T> {
    pub(crate) fn of_client(stream: T, settings: FrameSettings) -> Self {
        Self::new(stream, PREFACE, None, settings)
    }

    /// Of which streams are asked that `gauge` counts.
    pub(crate) fn of_server(stream: T, gauge: Arc<Gauge>, settings: FrameSettings) -> Self {
        // Those that waited for the connection to be made have been counted, and are asked of it still.
        Self::new(stream, 0, Some(Asked { gauge, before: 0 }), settings)
    }

    fn new(stream: T, skip: usize, asked: Option<Asked>, settings: FrameSettings) -> Self {
        let tokens = Tokens { settings, left: settings.burst, since: Instant::now(), bytes: 0 };
        Self { stream, skip, head: [0; HEAD], filled: 0, tokens, asked, found: Found::default() }
    }

    /// So many tokens, and none for the time that passes.
    pub(crate) fn have(&mut self, tokens: u64) {
        let never = Instant::now() + Duration::from_secs(1 << 30);
        self.tokens = Tokens { left: tokens, since: never, ..self.tokens };
    }

    /// The type of the frame in these bytes that is one too many.
    pub(crate) fn flood_in(&mut self, bytes: &[u8]) -> Option<u8> {
        self.look_at(bytes).err().map(|Flood(kind)| kind)
    }

    pub(crate) fn found(&self) -> Found {
        self.found.clone()
    }

    fn look_at(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            let taken = (HEAD - self.filled).min(bytes.len() - skipped);
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[skipped..skipped + taken]);
            self.filled += taken;
            bytes = &bytes[skipped + taken..];
            if self.filled == HEAD {
                self.filled = 0;
                self.judge()?;
            }
        }
        Ok(())
    }

    /// A frame begins: its head is three bytes of length, one of type, and what does not matter here.
    fn judge(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        match kind {
            HEADERS if self.asked.is_none() => self.tokens.earn(PER_REQUEST),
            DATA if length > 0 => self.tokens.carried(u64::from(length)),
            _ if self.spend() => {}
            _ => return Err(Flood(kind)),
        }
        Ok(())
    }

    fn spend(&mut self) -> bool {
        if self.tokens.left == 0
            && let Some(asked) = &mut self.asked
        {
            self.tokens.earn(u64::from(asked.since_then()) * (PER_REQUEST + 1));
        }
        self.tokens.spend()
    }
}

impl Asked {
    fn since_then(&mut self) -> u32 {
        let now = self.gauge.opened();
        now.wrapping_sub(std::mem::replace(&mut self.before, now))
    }
}

impl Tokens {
    fn earn(&mut self, tokens: u64) {
        self.left = self.left.saturating_add(tokens).min(self.settings.burst);
    }

    fn carried(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.earn(self.bytes / BYTES_PER_TOKEN);
        self.bytes %= BYTES_PER_TOKEN;
    }

    fn spend(&mut self) -> bool {
        if self.left == 0 {
            // Asked of the clock only now: frames come by the thousand.
            let passed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            let tokens = passed.saturating_mul(self.settings.per_second) / 1000;
            if tokens > 0 {
                self.since = Instant::now();
                self.earn(tokens);
            }
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watchful<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let looked = self.look_at(&buffer.filled()[before..]);
        Poll::Ready(looked.map_err(|flood| {
            self.found.0.get_or_init(|| flood);
            io::Error::new(io::ErrorKind::InvalidData, flood)
        }))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watchful<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.tokens.carried(wrote(written));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, data))?;
        self.tokens.carried(wrote(written));
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn wrote(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const BURST: u64 = 50;
    const PER_SECOND: u64 = 20;
    const SETTINGS: FrameSettings = FrameSettings { burst: BURST, per_second: PER_SECOND };

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![size[1], size[2], size[3], kind, 0, 0, 0, 0, 1];
        frame.resize(HEAD + length, 0);
        frame
    }

    fn watchful() -> Watchful<tokio::io::Empty> {
        let mut stream = Watchful::of_client(tokio::io::empty(), SETTINGS);
        assert_eq!(stream.look_at(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Ok(()));
        stream
    }

    /// If a flood were not noticed, a peer could have us answer for ever; if its name were lost, nobody would know why.
    #[tokio::test(start_paused = true)]
    async fn a_flood_ends_where_its_tokens_do() {
        let mut stream = watchful();
        for _ in 0..BURST {
            assert_eq!(stream.look_at(&frame(PING, 8)), Ok(()));
        }
        assert_eq!(stream.look_at(&frame(PING, 8)), Err(Flood(PING)));
        assert_eq!(Flood(PING).to_string(), "too many PING frames for nothing");
        assert_eq!(stream.look_at(&[0; 8]), Ok(()), "what was left of it");
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..PER_SECOND {
            assert_eq!(stream.look_at(&frame(PING, 8)), Ok(()));
        }
        assert_eq!(stream.look_at(&frame(DATA, 0)), Err(Flood(DATA)));
    }

    /// If heads were only found where a read begins, a flood could hide behind how it is cut, and data be taken for heads.
    #[tokio::test(start_paused = true)]
    async fn frames_are_found_however_they_come() {
        let mut stream = watchful();
        let mut bytes = frame(HEADERS, 70);
        bytes.extend((0..BURST + 1).flat_map(|_| frame(PING, 8)));
        let whole = stream.look_at(&bytes);
        assert_eq!(whole, Err(Flood(PING)));
        let mut stream = watchful();
        let found = bytes.chunks(7).find_map(|piece| stream.look_at(piece).err());
        assert_eq!(found, Some(Flood(PING)));
    }

    fn server(gauge: &Arc<Gauge>) -> Watchful<tokio::io::Empty> {
        Watchful::of_server(tokio::io::empty(), Arc::clone(gauge), SETTINGS)
    }

    /// If a server earned by its own header blocks, it could have us read those of status 100 for ever; if it did not by our
    /// requests, one that answers many at once would be cut.
    #[tokio::test(start_paused = true)]
    async fn a_server_answers_what_it_is_asked_and_no_more() {
        let gauge = Arc::new(Gauge::new(1, &Arc::default()));
        let mut busy = server(&gauge);
        for _ in 0..10 * BURST {
            drop(gauge.slot(1).unwrap());
            assert_eq!(busy.look_at(&frame(HEADERS, 70)), Ok(()));
            for kind in [WINDOW_UPDATE, WINDOW_UPDATE, WINDOW_UPDATE, 3] {
                assert_eq!(busy.look_at(&frame(kind, 4)), Ok(()));
            }
        }
        let mut hostile = server(&Arc::new(Gauge::new(1, &Arc::default())));
        let found = (0..=BURST).find_map(|_| hostile.look_at(&frame(HEADERS, 70)).err());
        assert_eq!(found, Some(Flood(HEADERS)));
    }

    /// If honest traffic were a flood, long downloads and many short connections would be cut.
    #[tokio::test(start_paused = true)]
    async fn who_has_an_occasion_for_its_frames_is_no_flood() {
        let mut stream = watchful();
        for _ in 0..10 * BURST {
            stream.tokens.carried(4096);
            assert_eq!(stream.look_at(&frame(WINDOW_UPDATE, 4)), Ok(()));
            assert_eq!(stream.look_at(&frame(WINDOW_UPDATE, 4)), Ok(()));
            assert_eq!(stream.look_at(&frame(HEADERS, 200)), Ok(()));
            assert_eq!(stream.look_at(&frame(DATA, 1000)), Ok(()));
            assert_eq!(stream.look_at(&frame(3, 4)), Ok(()));
        }
    }
}
