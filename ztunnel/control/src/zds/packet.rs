//! Packets of the agent's socket: `SOCK_SEQPACKET`, one message each, at most 1024 bytes, descriptors by `SCM_RIGHTS`.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use tokio::{io::Interest, net::UnixStream};

use crate::packet::{Packet, receive};

pub(super) const LONGEST_PACKET: usize = 1024;
/// A stream in name only: to be told when the socket is ready is all that is asked of it.
pub(super) struct PacketSocket(UnixStream);

impl PacketSocket {
    /// A Unix socket connects at once or not at all.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::of(socket)
    }

    pub(super) fn of(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    /// `None` at the end of the connection.
    pub(super) async fn receive(&self) -> io::Result<Option<Packet>> {
        let packet = receive(&self.0, LONGEST_PACKET).await?;
        Ok((!packet.bytes.is_empty() || !packet.descriptors.is_empty()).then_some(packet))
    }

    #[cfg(test)]
    pub(super) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let flags = SendFlags::NOSIGNAL;
        self.0.async_io(Interest::WRITABLE, || Ok(send(&self.0, bytes, flags)?)).await.map(drop)
    }
}
