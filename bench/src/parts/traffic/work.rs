//! The kinds of traffic.

use std::net::{IpAddr, SocketAddr};

use crate::load::order::{Direction, Order, port};

pub(crate) const BULK: &str = "Bulk, against direct";
pub(crate) const REQUESTS: &str = "Requests, against direct";
pub(crate) const PING_PONG: &str = "Ping-pong, against direct";
pub(crate) const CONNECTIONS: &str = "New connections, against direct";

/// Whom to talk to.
pub(super) struct Target {
    pub(super) ip: IpAddr,
    pub(super) echo: SocketAddr,
}

impl Target {
    pub(super) fn at(ip: IpAddr) -> Self {
        Self { ip, echo: SocketAddr::new(ip, port::ECHO) }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bulk(usize, Direction),
    Requests(usize),
    PingPong(usize),
    /// So many at once, of so many.
    Connections(usize, usize),
}

pub(super) struct Work {
    pub(super) name: String,
    pub(super) kind: Kind,
    millis: u64,
}

pub(super) fn all(quick: bool) -> Vec<Work> {
    let millis = if quick { 150 } else { 500 };
    let connections = |count: usize| if quick { count / 4 } else { count };
    let kinds = [
        ("bulk 1 up", Kind::Bulk(1, Direction::Up)),
        ("bulk 1 down", Kind::Bulk(1, Direction::Down)),
        ("bulk 4 up", Kind::Bulk(4, Direction::Up)),
        ("bulk 4 down", Kind::Bulk(4, Direction::Down)),
        ("requests 16", Kind::Requests(16)),
        ("requests 64", Kind::Requests(64)),
        ("ping-pong 1 B", Kind::PingPong(1)),
        ("ping-pong 1 KiB", Kind::PingPong(1024)),
        ("connections one by one", Kind::Connections(1, connections(400))),
        ("connections 16 at once", Kind::Connections(16, connections(1200))),
    ];
    kinds.into_iter().map(|(name, kind)| Work { name: name.to_owned(), kind, millis }).collect()
}

impl Work {
    /// Of ratios, and of plain values.
    pub(super) fn tables(&self) -> [&'static str; 2] {
        match self.kind {
            Kind::Bulk(..) => [BULK, "Bulk, plain values"],
            Kind::Requests(_) => [REQUESTS, "Requests, plain values"],
            Kind::PingPong(_) => [PING_PONG, "Ping-pong, plain values"],
            Kind::Connections(..) => [CONNECTIONS, "New connections, plain values"],
        }
    }

    /// The relays are there for what wakes up the most.
    pub(super) fn takes(&self, is_relay: bool) -> bool {
        !is_relay || matches!(self.kind, Kind::PingPong(_))
    }

    pub(super) fn order(&self, target: &Target) -> Order {
        self.for_so_long(target, self.millis)
    }

    /// The same for a moment.
    pub(super) fn warm_up(&self, target: &Target) -> Order {
        match self.for_so_long(target, 50) {
            Order::Connect { servers, at_once, .. } => Order::Connect { servers, at_once, count: at_once },
            other => other,
        }
    }

    fn for_so_long(&self, target: &Target, millis: u64) -> Order {
        let server = target.ip;
        match self.kind {
            Kind::Bulk(streams, direction) => Order::Bulk { server, streams, direction, millis },
            Kind::Requests(connections) => Order::Requests { server, connections, millis },
            Kind::PingPong(size) => Order::PingPong { server: target.echo, size, millis },
            Kind::Connections(at_once, count) => {
                Order::Connect { servers: vec![target.echo], count, at_once }
            }
        }
    }

    pub(super) fn is_bulk(&self) -> bool {
        matches!(self.kind, Kind::Bulk(..))
    }
}
