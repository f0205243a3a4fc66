//! What may be set about tunnels. The defaults are safe for a node of any size.

use std::{fmt, sync::Arc, thread::available_parallelism, time::Duration};

use crate::FrameSettings;

/// Everything here is per daemon.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    pub deadlines: Deadlines,
    pub windows: WindowSettings,
    /// Frames that cost us work and the peer nothing.
    pub frames: FrameSettings,
    /// How often a connection is asked whether it is alive.
    pub ping_interval: Duration,
    /// How long the answer to a PING may take.
    pub ping_timeout: Duration,
    /// A pooled connection without streams is closed after this.
    pub idle_timeout: Duration,
    /// Streams on one outbound connection; the next stream opens another connection.
    pub streams_per_connection: u32,
    /// Streams a peer may have open on one inbound connection.
    pub inbound_streams: u32,
    /// Outbound connections of the whole daemon.
    pub pool_connections: usize,
    /// Outbound connections of one source workload, of those.
    pub pool_connections_per_source: usize,
    /// Steps of making connections that run at once; see [`crate::Turnstile`].
    pub turns: usize,
    /// Told how long each outbound handshake took that succeeded: TLS and HTTP/2.
    pub handshakes: HandshakeObserver,
}

/// Must return at once.
#[derive(Clone, Default)]
pub struct HandshakeObserver(Option<Arc<dyn Fn(Duration) + Send + Sync>>);

impl HandshakeObserver {
    pub fn new(observe: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observe)))
    }

    pub(crate) fn tell(&self, took: Duration) {
        if let Some(observe) = &self.0 {
            observe(took);
        }
    }
}

impl fmt::Debug for HandshakeObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeObserver").finish_non_exhaustive()
    }
}

/// The longest each step may take. None of them waits for another connection's step.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// A certificate for the local identity.
    pub svid: Duration,
    /// The TCP connection to the peer.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// The HTTP/2 preface.
    pub preface: Duration,
    /// The answer to a CONNECT, in which the far side connects to its application.
    pub answer: Duration,
}

/// Receive windows, in bytes; see the `window` module for what they bound.
#[derive(Clone, Copy, Debug)]
pub struct WindowSettings {
    /// A stream's window to begin with, and when it is idle.
    pub initial: u32,
    /// A stream's window at most.
    pub max: u32,
    /// What all windows of the daemon may grow by together.
    pub growth_budget: usize,
    /// What all open streams may hold together: their windows, the growth of these, and what waits to be sent; and what
    /// is held outside of tunnels. Beyond it no stream is opened.
    pub total: usize,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            windows: WindowSettings::default(),
            frames: FrameSettings::default(),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
            streams_per_connection: 100,
            inbound_streams: 200,
            pool_connections: 65_536,
            pool_connections_per_source: 4096,
            turns: available_parallelism().map_or(1, Into::into),
            handshakes: HandshakeObserver::default(),
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        let step = Duration::from_secs(10);
        Self { svid: step, connect: step, tls: step, preface: step, answer: 2 * step }
    }
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self { initial: 64 << 10, max: 1 << 20, growth_budget: 64 << 20, total: 2 << 30 }
    }
}
