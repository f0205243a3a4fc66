//! Packets of the agent's socket: `SOCK_SEQPACKET`, one message each, at most 1024 bytes, descriptors by `SCM_RIGHTS`.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, send, socket_with,
};
use tokio::{io::Interest, net::UnixStream};

pub(super) const LONGEST_PACKET: usize = 1024;
/// As many as there is room for; a right one has one at most.
const MOST_DESCRIPTORS: usize = 4;

/// A stream in name only: to be told when the socket is ready is all that is asked of it.
pub(super) struct PacketSocket(UnixStream);

pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Some of it did not fit.
    pub(super) truncated: bool,
}

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
        let packet = self.0.async_io(Interest::READABLE, || receive(&self.0)).await?;
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

fn receive(socket: &UnixStream) -> io::Result<Packet> {
    let mut bytes = vec![0; LONGEST_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    bytes.truncate(received.bytes);
    let truncated = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Packet { bytes, descriptors, truncated })
}
