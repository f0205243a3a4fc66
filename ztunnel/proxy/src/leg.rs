//! One TCP connection of a journey. Unless it is [`Leg::close`]d it ends in a reset: an end that nobody declared
//! must not look like the end of the data.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, tcp};

use crate::room::Seat;

/// The far side of a passthrough connection is probed by us: the application's own probes end at our socket.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(180);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Leg {
    stream: TcpStream,
    _seat: Seat,
}

impl Leg {
    pub(crate) fn new(stream: TcpStream, seat: Seat) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // close(2) with a zero linger time sends RST (tcp(7), SO_LINGER), also when the process just dies.
        stream.set_zero_linger()?;
        let probes = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
        SockRef::from(&stream).set_tcp_keepalive(&probes)?;
        Ok(Self { stream, _seat: seat })
    }

    pub(crate) fn split(&mut self) -> (tcp::ReadHalf<'_>, tcp::WriteHalf<'_>) {
        self.stream.split()
    }

    pub(crate) fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.local_addr()
    }

    /// Both directions are done; what is still in the send buffer is delivered.
    pub(crate) fn close(self) {
        // It can fail only on a socket that is dead already.
        let _ = SockRef::from(&self.stream).set_linger(None);
    }
}
