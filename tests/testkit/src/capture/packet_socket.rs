//! The packet socket itself: socket2 and nix know neither its addresses nor its statistics.

use std::{os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Keep, filter};

const KERNEL_BUFFER_BYTES: usize = 64 << 20;
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// Opens a packet socket on an interface of the calling thread's namespace.
pub(super) fn open(interface: &str, keep: Keep) -> Result<Socket> {
    // Protocol 0: nothing arrives before the filter and the interface are set.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    filter::attach(&socket, keep)?;
    // Larger than net.core.rmem_max allows others.
    setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER_BYTES).context("SO_RCVBUFFORCE")?;
    let index = nix::net::if_::if_nametoindex(interface)?;
    socket.bind(&every_protocol_on(index)?)?;
    socket.set_read_timeout(Some(LOOK_AROUND))?;
    Ok(socket)
}

fn every_protocol_on(index: u32) -> Result<SockAddr> {
    let family = u16::try_from(libc::AF_PACKET)?;
    let protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
    let index = i32::try_from(index)?;
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
    #[expect(unsafe_code, reason = "socket2 has no packet addresses")]
    // SAFETY: the storage is zeroed and larger than a sockaddr_ll, which is plain data; the length is its size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = &mut *storage.cast::<libc::sockaddr_ll>();
            address.sll_family = family;
            address.sll_protocol = protocol;
            address.sll_ifindex = index;
            *length = size;
            Ok(())
        })?
    };
    Ok(address)
}

/// Frames that the kernel had no room for since this was last asked.
pub(super) fn dropped(socket: &Socket) -> Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>())?;
    #[expect(unsafe_code, reason = "neither socket2 nor nix knows this option")]
    // SAFETY: the kernel writes at most `length` bytes, the size of `statistics`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut statistics).cast(),
            &mut length,
        )
    };
    nix::errno::Errno::result(result).context("PACKET_STATISTICS")?;
    Ok(statistics.tp_drops.into())
}
