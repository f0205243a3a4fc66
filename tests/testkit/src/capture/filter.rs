//! What the kernel hands to a packet socket, as a classic BPF program.

use anyhow::{Context, Result};
use socket2::{SockFilter, Socket};

use super::Keep;

const ACCEPT: u32 = u32::MAX;

pub(super) fn attach(socket: &Socket, keep: Keep) -> Result<()> {
    if keep == Keep::Syns {
        socket.attach_filter(&syns()).context("attaching the filter for SYNs")?;
    }
    Ok(())
}

/// TCP segments with SYN set, over IPv4 with any options and over IPv6 without extension headers.
fn syns() -> Vec<SockFilter> {
    let load_half = |offset| SockFilter::new(0x28, 0, 0, offset);
    let load_byte = |offset| SockFilter::new(0x30, 0, 0, offset);
    let jump_if_equal = |value, yes, no| SockFilter::new(0x15, yes, no, value);
    let jump_if_bits = |bits, yes, no| SockFilter::new(0x45, yes, no, bits);
    let answer = |length| SockFilter::new(0x06, 0, 0, length);
    vec![
        load_half(12),
        jump_if_equal(0x86dd, 0, 4),
        // IPv6: next header, then the flags.
        load_byte(14 + 6),
        jump_if_equal(6, 0, 9),
        load_byte(14 + 40 + 13),
        jump_if_bits(0x02, 6, 7),
        // IPv4: protocol, header length, then the flags.
        jump_if_equal(0x0800, 0, 6),
        load_byte(14 + 9),
        jump_if_equal(6, 0, 4),
        SockFilter::new(0xb1, 0, 0, 14),
        SockFilter::new(0x50, 0, 0, 14 + 13),
        jump_if_bits(0x02, 0, 1),
        answer(ACCEPT),
        answer(0),
    ]
}
