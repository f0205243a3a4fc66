//! New connections. Each carries one byte there and back, since behind a proxy `connect()` alone says nothing.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{latency::Latencies, order::Outcome, requests::outcome};

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(servers: &[SocketAddr], count: usize, at_once: usize) -> Result<Outcome> {
    let next = Cell::new(0);
    let started = Instant::now();
    let each = try_join_all((0..at_once).map(|_| connect_in_turn(servers, &next, count))).await?;
    let seconds = started.elapsed().as_secs_f64();
    let mut all = Latencies::default();
    each.into_iter().for_each(|one| all.merge(one));
    Ok(outcome(seconds, all))
}

async fn connect_in_turn(servers: &[SocketAddr], next: &Cell<usize>, count: usize) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    while next.get() < count {
        let server = servers[next.replace(next.get() + 1) % servers.len()];
        let started = Instant::now();
        timeout(PATIENCE, once(server)).await?.with_context(|| format!("connecting to {server}"))?;
        latencies.add(started.elapsed());
    }
    Ok(latencies)
}

async fn once(server: SocketAddr) -> Result<()> {
    let mut connection = TcpStream::connect(server).await?;
    connection.write_all(b"x").await?;
    connection.read_exact(&mut [0]).await?;
    Ok(())
}
