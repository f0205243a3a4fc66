//! Messages on a TCP connection: each has its length before it (RFC 7766, section 8).

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// `None` if the far end has nothing more to say.
pub(crate) async fn read_message(stream: &mut TcpStream, longest: usize) -> io::Result<Option<Vec<u8>>> {
    match read_length(stream).await? {
        Some(length) => read_body(stream, length, longest).await.map(Some),
        None => Ok(None),
    }
}

pub(crate) async fn read_length(stream: &mut TcpStream) -> io::Result<Option<usize>> {
    match stream.read_u16().await {
        Ok(length) => Ok(Some(length.into())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) async fn read_body(stream: &mut TcpStream, length: usize, longest: usize) -> io::Result<Vec<u8>> {
    if length > longest {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// In one piece: some servers wait for the rest of a message in vain.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let whole = [&length.to_be_bytes(), message].concat();
    stream.write_all(&whole).await
}
