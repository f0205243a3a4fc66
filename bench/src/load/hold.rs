//! Connections that are kept open, so that what they cost at rest can be weighed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::order::Outcome;

/// As many as are on their way at once; with more, what is kept would be the size of the crowd.
const AT_ONCE: usize = 64;
/// Fits into every buffer on the way, so that nobody waits for anybody.
const PIECE: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Held(Vec<TcpStream>);

impl Held {
    pub(super) async fn open(&mut self, server: SocketAddr, count: usize) -> Result<Outcome> {
        let started = Instant::now();
        let opened = stream::iter(0..count).map(|_| open(server)).buffer_unordered(AT_ONCE);
        self.0.extend(opened.try_collect::<Vec<_>>().await?);
        Ok(done(started, count))
    }

    pub(super) async fn carry(&mut self, bytes: usize) -> Result<Outcome> {
        let started = Instant::now();
        let carried = stream::iter(self.0.iter_mut()).map(|held| echo(held, bytes));
        carried.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(done(started, self.0.len()))
    }

    pub(super) fn release(&mut self) -> Outcome {
        let (started, count) = (Instant::now(), self.0.len());
        self.0 = Vec::new();
        done(started, count)
    }
}

fn done(started: Instant, count: usize) -> Outcome {
    Outcome { seconds: started.elapsed().as_secs_f64(), operations: count as u64, ..Outcome::default() }
}

/// Open once the far end has answered.
async fn open(server: SocketAddr) -> Result<TcpStream> {
    let mut connection = timeout(PATIENCE, TcpStream::connect(server)).await??;
    echo(&mut connection, 1).await?;
    Ok(connection)
}

async fn echo(connection: &mut TcpStream, bytes: usize) -> Result<()> {
    let mut piece = vec![0; PIECE.min(bytes)];
    for _ in 0..bytes.div_ceil(PIECE) {
        connection.write_all(&piece).await?;
        timeout(PATIENCE, connection.read_exact(&mut piece)).await??;
    }
    Ok(())
}
