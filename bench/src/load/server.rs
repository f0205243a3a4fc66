//! The server's side: one thread that serves every connection, whichever namespace it comes from.

use std::{
    cell::RefCell,
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    client::raise_descriptor_limit,
    order::{ANSWER, REQUEST, port},
};

const BUFFER: usize = 256 << 10;
const PORTS: [u16; 4] = [port::ECHO, port::SINK, port::SOURCE, port::ANSWER];

thread_local! {
    static BUFFER_OF_ALL: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 << 10]);
}

/// Serves until it is killed. Says so on standard output once it listens.
pub(crate) fn run(namespaces: &[PathBuf], echo: &[u16]) -> Result<()> {
    raise_descriptor_limit()?;
    let mut listeners = listen(&PORTS)?;
    listeners.extend(listen(echo)?.into_iter().map(|(_, listener)| (port::ECHO, listener)));
    for namespace in namespaces {
        listeners.extend(listen_in(namespace)?);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        for (port, listener) in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(async move { accept(port, &listener).await });
        }
        println!("listening");
        std::future::pending().await
    })
}

fn listen(ports: &[u16]) -> Result<Vec<(u16, TcpListener)>> {
    let open = |&port: &u16| -> Result<_> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        // The standard library's backlog of 128 would refuse a crowd.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
        listener.set_nonblocking(true)?;
        Ok((port, listener))
    };
    ports.iter().map(open).collect()
}

/// On a thread of its own, which goes into the namespace and ends.
fn listen_in(namespace: &Path) -> Result<Vec<(u16, TcpListener)>> {
    let file = std::fs::File::open(namespace).with_context(|| format!("opening {}", namespace.display()))?;
    let inside = thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        listen(&PORTS)
    });
    inside.join().map_err(|_| anyhow!("listening in {} panicked", namespace.display()))?
}

async fn accept(port: u16, listener: &tokio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                tokio::spawn(serve(port, connection));
            }
            // Whoever went away before it was accepted, or no descriptor for a while.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// As one of the connections that are echoed.
pub(super) async fn echo_to_the_end(connection: TcpStream) {
    serve(port::ECHO, connection).await;
}

/// A client that goes away ends it; nobody needs to know.
async fn serve(port: u16, mut connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let _ = match port {
        port::ECHO => echo(&mut connection).await,
        port::SINK => sink(&mut connection).await,
        port::SOURCE => source(&mut connection).await,
        _ => answer(&mut connection).await,
    };
}

/// All connections share one buffer, since thousands may be held; only what the client does not take at once is kept.
async fn echo(connection: &mut TcpStream) -> io::Result<()> {
    loop {
        connection.readable().await?;
        match BUFFER_OF_ALL.with_borrow_mut(|buffer| echo_at_once(connection, buffer)) {
            Ok(None) => return Ok(()),
            Ok(Some(rest)) if rest.is_empty() => {}
            Ok(Some(rest)) => connection.write_all(&rest).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What remains to be written; `None` at the end.
fn echo_at_once(connection: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
    let read = connection.try_read(buffer)?;
    if read == 0 {
        return Ok(None);
    }
    let written = match connection.try_write(&buffer[..read]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        written => written?,
    };
    Ok(Some(buffer[written..read].to_vec()))
}

async fn sink(connection: &mut TcpStream) -> io::Result<()> {
    let (mut buffer, mut bytes) = (vec![0; BUFFER], 0_u64);
    loop {
        match connection.read(&mut buffer).await? {
            0 => return connection.write_all(&bytes.to_be_bytes()).await,
            read => bytes += read as u64,
        }
    }
}

async fn source(connection: &mut TcpStream) -> io::Result<()> {
    let time = Duration::from_millis(connection.read_u64().await?);
    let (started, chunk) = (Instant::now(), vec![0; BUFFER]);
    while started.elapsed() < time {
        connection.write_all(&chunk).await?;
    }
    Ok(())
}

async fn answer(connection: &mut TcpStream) -> io::Result<()> {
    let mut request = [0; REQUEST];
    loop {
        connection.read_exact(&mut request).await?;
        connection.write_all(&[0; ANSWER]).await?;
    }
}
