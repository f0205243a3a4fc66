//! A stranger who has the daemon work for next to nothing: the same ClientHello again and again, which takes a
//! millisecond of arithmetic to answer and none to send.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use testkit::{Mesh, Place};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{client::config, good, stalls::client_hello};

const PATIENCE: Duration = Duration::from_secs(5);

/// Running until it is stopped.
pub(crate) struct HandshakeStorm {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl HandshakeStorm {
    /// From `place`, so many at once.
    pub(crate) fn start(mesh: &Mesh, place: &Place, gateway: SocketAddr, at_once: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&answered));
        let hello = client_hello(gateway, config(good(mesh, "storm")));
        let thread = super::start_inside(place, move || async move {
            let storming = (0..at_once).map(|_| storm(gateway, &hello, &told, &counted));
            futures::future::join_all(storming).await;
        });
        Self { stop, answered, thread }
    }

    /// Yields how many hellos were answered.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap();
        self.answered.load(Relaxed)
    }
}

async fn storm(gateway: SocketAddr, hello: &[u8], stop: &AtomicBool, answered: &AtomicU64) {
    while !stop.load(Relaxed) {
        // It may be cut: what is tested is what becomes of others.
        if let Ok(Ok(())) = timeout(PATIENCE, ask(gateway, hello)).await {
            answered.fetch_add(1, Relaxed);
        }
    }
}

/// The first byte of the answer is that of a ServerHello, which was the work.
async fn ask(gateway: SocketAddr, hello: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(gateway).await?;
    stream.set_zero_linger()?;
    stream.write_all(hello).await?;
    stream.read_u8().await.map(drop)
}
