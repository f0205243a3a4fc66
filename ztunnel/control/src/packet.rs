//! What comes over a Unix socket at once: bytes, and descriptors by `SCM_RIGHTS`.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::{io::Interest, net::UnixStream};

/// As many as there is room for; a right one has one at most.
const MOST_DESCRIPTORS: usize = 4;

#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
    /// Some of it did not fit.
    pub truncated: bool,
}

/// The next of at most `longest` bytes; empty at the end of the connection.
///
/// # Errors
/// Those of recvmsg(2).
pub async fn receive(socket: &UnixStream, longest: usize) -> io::Result<Packet> {
    socket.async_io(Interest::READABLE, || receive_now(socket, longest)).await
}

fn receive_now(socket: &UnixStream, longest: usize) -> io::Result<Packet> {
    let mut bytes = vec![0; longest];
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
