//! What a client is told to do, and what came of it. One line of JSON each.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The server's ports, one for each behaviour.
pub(crate) mod port {
    /// Sends back what it reads.
    pub(crate) const ECHO: u16 = 8080;
    /// Reads to the end and answers with the number of bytes.
    pub(crate) const SINK: u16 = 8081;
    /// Reads how many milliseconds, and sends for so long.
    pub(crate) const SOURCE: u16 = 8082;
    /// Answers each [`super::REQUEST`] bytes with [`super::ANSWER`] bytes.
    pub(crate) const ANSWER: u16 = 8083;
}

pub(crate) const REQUEST: usize = 128;
pub(crate) const ANSWER: usize = 1024;

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client.
    Up,
    Down,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// As much as fits into the time, over so many connections.
    Bulk { server: IpAddr, streams: usize, direction: Direction, millis: u64 },
    /// Small requests, one after the other on each of the connections.
    Requests { server: IpAddr, connections: usize, millis: u64 },
    /// So many bytes there and back, again and again on one connection.
    PingPong { server: SocketAddr, size: usize, millis: u64 },
    /// New connections, each for one byte there and back: so many in all, round the servers, so many at once.
    Connect { servers: Vec<SocketAddr>, count: usize, at_once: usize },
    /// Opens connections and keeps them.
    Hold { server: SocketAddr, count: usize },
    /// Has each held connection echo so many bytes.
    Carry { bytes: usize },
    /// Closes what is held.
    Release,
}

/// What came of an order.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    /// Requests, round trips or connections.
    pub(crate) operations: u64,
    /// Of those that worked, in microseconds.
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}
