//! The floor: whoever hands bytes on from socket to socket wakes up as often as this does.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

const BUFFER: usize = 16 << 10;

/// Relays until it is killed. Says so on standard output once it listens.
pub(crate) fn run(from: SocketAddr, to: SocketAddr) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(from).await?;
        println!("listening");
        loop {
            let (near, _) = listener.accept().await?;
            tokio::spawn(relay(near, to));
        }
    })
}

/// Either end may go: nobody needs to know why.
async fn relay(near: TcpStream, to: SocketAddr) -> Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::spawn(hand_on(near_in, far_out));
    hand_on(far_in, near_out).await
}

async fn hand_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(to.shutdown().await?),
            read => to.write_all(&buffer[..read]).await?,
        }
    }
}
