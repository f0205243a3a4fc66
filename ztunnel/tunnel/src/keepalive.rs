//! Whether the other end is alive: a PING at each interval, and the connection is given up when its answer takes too
//! long. A connection may be idle for minutes, and TCP alone would not notice for as long.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use crate::TunnelSettings;

pub(crate) struct Keepalive {
    ping: PingPong,
    timer: Pin<Box<Sleep>>,
    interval: Duration,
    timeout: Duration,
    /// When the PING was sent whose answer is not there yet.
    asked: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// A PING goes out.
    Asked,
    /// The peer does not answer.
    Dead,
}

impl Keepalive {
    pub(crate) fn new(ping: PingPong, settings: &TunnelSettings) -> Self {
        let (interval, timeout) = (settings.ping_interval, settings.ping_timeout);
        Self { ping, timer: Box::pin(sleep(interval)), interval, timeout, asked: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Beat> {
        if let Some(asked) = self.asked
            && let Poll::Ready(Ok(_)) = self.ping.poll_pong(cx)
        {
            self.asked = None;
            self.timer.as_mut().reset(asked + self.interval);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.asked.is_some() {
            return Poll::Ready(Beat::Dead);
        }
        // Fails only on a connection that is ending, which is then noticed by whoever polls it.
        let _ = self.ping.send_ping(Ping::opaque());
        let now = Instant::now();
        self.asked = Some(now);
        self.timer.as_mut().reset(now + self.timeout);
        Poll::Ready(Beat::Asked)
    }
}
