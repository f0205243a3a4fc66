//! As many bytes as fit into the time, over blocking sockets with large buffers: nothing is cheaper from user space.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use super::order::{Direction, Outcome, port};

const BUFFER: usize = 256 << 10;
/// Whoever hangs this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(server: IpAddr, streams: usize, direction: Direction, millis: u64) -> Result<Outcome> {
    let connections: Vec<TcpStream> =
        (0..streams).map(|_| connect(server, direction)).collect::<Result<_>>()?;
    let started = Instant::now();
    let threads: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            thread::spawn(move || match direction {
                Direction::Up => send(connection, millis),
                Direction::Down => receive(connection, millis),
            })
        })
        .collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread.join().map_err(|_| anyhow!("a stream panicked"))??;
    }
    Ok(Outcome { seconds: started.elapsed().as_secs_f64(), bytes, ..Outcome::default() })
}

fn connect(server: IpAddr, direction: Direction) -> Result<TcpStream> {
    let port = if direction == Direction::Up { port::SINK } else { port::SOURCE };
    let connection = TcpStream::connect_timeout(&SocketAddr::new(server, port), PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Counts what has arrived, not what was sent.
fn send(mut connection: TcpStream, millis: u64) -> Result<u64> {
    let chunk = vec![0; BUFFER];
    let (started, time) = (Instant::now(), Duration::from_millis(millis));
    let mut sent = 0;
    while started.elapsed() < time {
        connection.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    connection.shutdown(Shutdown::Write)?;
    let mut arrived = [0; 8];
    connection.read_exact(&mut arrived)?;
    let arrived = u64::from_be_bytes(arrived);
    ensure!(arrived == sent, "{sent} bytes were sent and {arrived} arrived");
    Ok(arrived)
}

fn receive(mut connection: TcpStream, millis: u64) -> Result<u64> {
    connection.write_all(&millis.to_be_bytes())?;
    let (mut chunk, mut bytes) = (vec![0; BUFFER], 0);
    loop {
        match connection.read(&mut chunk)? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
    }
}
