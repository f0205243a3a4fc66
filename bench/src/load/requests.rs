//! Requests over connections that are kept, and the ping-pong on one of them.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    latency::Latencies,
    order::{ANSWER, Outcome, REQUEST, port},
};

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(server: IpAddr, connections: usize, millis: u64) -> Result<Outcome> {
    let server = SocketAddr::new(server, port::ANSWER);
    let mut open = try_join_all((0..connections).map(|_| TcpStream::connect(server))).await?;
    // The way behind each is made by its first request.
    try_join_all(open.iter_mut().map(request)).await?;
    let started = Instant::now();
    let end = started + Duration::from_millis(millis);
    let each = try_join_all(open.iter_mut().map(|connection| ask_until(connection, end))).await?;
    let seconds = started.elapsed().as_secs_f64();
    let mut all = Latencies::default();
    each.into_iter().for_each(|one| all.merge(one));
    Ok(outcome(seconds, all))
}

async fn ask_until(connection: &mut TcpStream, end: Instant) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut asked = Instant::now();
    while asked < end {
        request(connection).await?;
        let answered = Instant::now();
        latencies.add(answered - asked);
        asked = answered;
    }
    Ok(latencies)
}

async fn request(connection: &mut TcpStream) -> Result<()> {
    let mut answer = [0; ANSWER];
    connection.set_nodelay(true)?;
    connection.write_all(&[0; REQUEST]).await?;
    tokio::time::timeout(PATIENCE, connection.read_exact(&mut answer)).await??;
    Ok(())
}

pub(super) fn ping_pong(server: SocketAddr, size: usize, millis: u64) -> Result<Outcome> {
    let mut connection = std::net::TcpStream::connect_timeout(&server, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let (ball, mut back) = (vec![0; size], vec![0; size]);
    let mut latencies = Latencies::default();
    let mut there_and_back = || -> Result<Duration> {
        let thrown = Instant::now();
        connection.write_all(&ball)?;
        connection.read_exact(&mut back)?;
        Ok(thrown.elapsed())
    };
    there_and_back()?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(millis) {
        latencies.add(there_and_back()?);
    }
    Ok(outcome(started.elapsed().as_secs_f64(), latencies))
}

pub(super) fn outcome(seconds: f64, latencies: Latencies) -> Outcome {
    let operations = latencies.count();
    let (p50_micros, p99_micros) = latencies.p50_and_p99();
    Outcome { seconds, bytes: 0, operations, p50_micros, p99_micros }
}
