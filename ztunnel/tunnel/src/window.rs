//! Receive windows: how much a peer may send before we have handed it on.
//!
//! Every stream of a connection has the same window. It starts at [`WindowSettings::initial`] (64 KiB) and doubles, up
//! to [`WindowSettings::max`] (1 MiB), when some stream's reader took twice the window within half a second and was
//! not behind. It goes back to the start when no reader made use of it between two PINGs. What a window has above
//! the start is reserved from one budget ([`WindowSettings::growth_budget`], 64 MiB) for all connections of the daemon,
//! a quarter of it at most by one; if that has not enough, the window stays as it is.
//!
//! The connection's own window covers the full window of as many streams as may be open, so streams that nobody reads
//! never hold up the others. It bounds what one connection may hold, whatever the peer does:
//!
//! ```text
//! one connection   <=  streams allowed (200 inbound, 100 outbound) x 64 KiB + its share of the budget
//! the daemon       <=  open streams x 64 KiB + 64 MiB
//! ```
//!
//! The second line holds for all but peers that open streams faster than SETTINGS travel, which the first line bounds
//! in turn. A share goes back to the budget only after the peer has acknowledged the smaller window, and what the
//! connection's window still grants above its base counts against the next share. A peer that does not acknowledge in
//! the time of a PING keeps its share for the life of its connection. The `h2` crate adds at most half as much again
//! for the overhead of small frames, then ends the connection.
//!
//! What waits to be sent is bounded by the peer's window and by [`SEND_BUFFER`] for each stream, and by 128 KiB for each
//! connection once it is encrypted.
//!
//! All that streams may hold, in both directions, is set aside when they are opened. One that would take the daemon beyond
//! [`WindowSettings::total`] (2 GiB), or its identity beyond its share of what is free, is not opened.

mod budget;
mod gauge;
mod load;
mod shares;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use budget::Budgets;
pub use budget::{Budget, Reservation};
pub(crate) use gauge::{Gauge, Meter, Slot};
pub(crate) use load::{Load, Part};
pub(crate) use shares::StreamReservation;

use crate::WindowSettings;

/// Bytes of one stream that may wait for the socket. As one piece, encrypted and with all headers, they stay just below
/// the 64 KiB that the kernel hands to the network as one packet.
pub const SEND_BUFFER: usize = 64_000;

/// The largest frame that a peer may send. Its data waits until all of it is there.
pub(crate) const FRAME: u32 = 64 << 10;

/// RFC 9113, section 6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// An HTTP/2 connection whose windows can be set.
pub(crate) trait Windowed {
    fn set_connection_window(&mut self, bytes: u32);
    /// For every stream, by SETTINGS. False while earlier SETTINGS are not acknowledged.
    fn set_stream_window(&mut self, bytes: u32) -> bool;
}

/// Keeps the windows of one connection. Its driver asks it before each poll and at each PING.
#[derive(Debug)]
pub(crate) struct Windows {
    settings: WindowSettings,
    gauge: Arc<Gauge>,
    share: Reservation,
    /// The connection's window without growth.
    base: u32,
    /// What each stream has, or will have as soon as the peer hears of it.
    window: u32,
    /// A smaller window was told and not acknowledged yet, so its share is still held.
    shrinking: bool,
    surplus: Surplus,
}

/// What the connection's window granted above its base when it was last shrunk: it is used up by traffic only.
#[derive(Debug, Default)]
struct Surplus {
    bytes: usize,
    drained_before: u64,
}

/// The connection's window without growth: room for all streams at once.
pub(crate) fn base(settings: &WindowSettings, streams: u32) -> u32 {
    settings.initial.saturating_mul(streams).min(MAX_WINDOW)
}

impl Windows {
    pub(crate) fn new(settings: WindowSettings, streams: u32, gauge: Arc<Gauge>, budget: &Budget) -> Self {
        Self {
            settings,
            gauge,
            share: budget.reservation(),
            base: base(&settings, streams),
            window: settings.initial,
            shrinking: false,
            surplus: Surplus::default(),
        }
    }

    pub(crate) fn gauge(&self) -> &Arc<Gauge> {
        &self.gauge
    }

    /// Before each poll of the connection: grows if a reader asked for it, and covers new streams.
    pub(crate) fn tune(&mut self, connection: &mut impl Windowed) {
        if self.shrinking {
            return;
        }
        let wanted = self.gauge.wanted().min(self.settings.max);
        if wanted > self.window {
            self.grow(wanted, connection);
        }
        if self.window > self.settings.initial && !self.cover(self.window, connection) {
            self.tell(self.affordable(), connection);
        }
    }

    /// At each PING: a window that nobody made use of since the last one goes back to its start.
    pub(crate) fn tick(&mut self, connection: &mut impl Windowed) {
        if self.shrinking {
            self.finish_shrinking(connection);
        } else if !self.gauge.was_busy() && self.share.bytes() > 0 {
            self.shrinking = self.tell(self.settings.initial, connection);
        }
    }

    fn grow(&mut self, wanted: u32, connection: &mut impl Windowed) {
        if !self.cover(wanted, connection) || self.tell(wanted, connection) {
            self.gauge.forget_wanted();
        }
    }

    /// Reserves what `window` needs for all streams, and lets the connection's window follow.
    fn cover(&mut self, window: u32, connection: &mut impl Windowed) -> bool {
        let before = self.share.bytes();
        let above = to_usize(window - self.settings.initial);
        let needed = above.saturating_mul(to_usize(self.gauge.streams().max(1)));
        let covered = self.share.grow_to(needed.max(self.surplus.left(&self.gauge)));
        if self.share.bytes() > before {
            connection.set_connection_window(self.connection_window());
        }
        covered
    }

    fn tell(&mut self, window: u32, connection: &mut impl Windowed) -> bool {
        let told = window == self.window || connection.set_stream_window(window);
        if told {
            self.window = window;
            self.gauge.set_window(window);
        }
        told
    }

    /// The largest window that the share covers for all streams.
    fn affordable(&self) -> u32 {
        let each = self.share.bytes() / to_usize(self.gauge.streams().max(1));
        self.settings.initial.saturating_add(to_u32(each)).min(self.window)
    }

    /// The peer took note of the smaller window if it lets us send SETTINGS again.
    fn finish_shrinking(&mut self, connection: &mut impl Windowed) {
        if !connection.set_stream_window(self.window) {
            return;
        }
        let bytes = self.share.bytes();
        self.surplus = Surplus { bytes, drained_before: self.gauge.drained() };
        self.share.release();
        self.shrinking = false;
        connection.set_connection_window(self.connection_window());
    }

    fn connection_window(&self) -> u32 {
        self.base.saturating_add(to_u32(self.share.bytes())).min(MAX_WINDOW)
    }
}

impl Surplus {
    fn left(&self, gauge: &Gauge) -> usize {
        let drained = usize::try_from(gauge.drained() - self.drained_before).unwrap_or(usize::MAX);
        self.bytes.saturating_sub(drained)
    }
}

fn to_usize(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Windowed for h2::server::Connection<T, Bytes> {
    fn set_connection_window(&mut self, bytes: u32) {
        self.set_target_window_size(bytes);
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        self.set_initial_window_size(bytes).is_ok()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, B: Buf> Windowed for h2::client::Connection<T, B> {
    fn set_connection_window(&mut self, bytes: u32) {
        self.set_target_window_size(bytes);
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        self.set_initial_window_size(bytes).is_ok()
    }
}
