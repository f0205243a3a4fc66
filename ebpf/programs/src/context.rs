//! Reading socket contexts.
//!
//! Every word is read by itself, unconditionally and volatile, and chosen by value afterwards: merged or
//! per-branch reads become accesses at a variable offset, which the verifier refuses.

use core::ptr::{addr_of, read_volatile};

use abi::Address;
use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock_addr, bpf_sock_ops};

pub const AF_INET: u32 = 2;
pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_MPTCP: u32 = 262;

macro_rules! word {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the caller's context pointer is the kernel's and the field is within it.
        unsafe { read_volatile(addr_of!((*$context).$($field)+).cast::<u32>()) }
    };
}

macro_rules! address {
    ($context:expr, $($field:tt)+) => {{
        // SAFETY: as for `word!`; the field has four words.
        let words = unsafe { addr_of!((*$context).$($field)+).cast::<u32>() };
        // SAFETY: see above.
        unsafe {
            Address([
                read_volatile(words),
                read_volatile(words.add(1)),
                read_volatile(words.add(2)),
                read_volatile(words.add(3)),
            ])
        }
    }};
}

#[inline(always)]
pub fn is_tcp(protocol: u32) -> bool {
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// Destination of a `connect()`; IPv4-mapped ones arrive through connect6 and read the same.
#[inline(always)]
pub fn connect_destination4(context: *mut bpf_sock_addr) -> Address {
    Address::v4(word!(context, user_ip4))
}

#[inline(always)]
pub fn connect_destination6(context: *mut bpf_sock_addr) -> Address {
    address!(context, user_ip6)
}

/// Host byte order.
#[inline(always)]
pub fn connect_port(context: *mut bpf_sock_addr) -> u16 {
    u16::from_be(word!(context, user_port) as u16)
}

#[inline(always)]
pub fn connect_protocol(context: *mut bpf_sock_addr) -> u32 {
    word!(context, protocol)
}

/// The SYN that an sk_lookup program decides on.
pub struct Syn {
    pub protocol: u32,
    pub ingress: u32,
    pub is_v4: bool,
    pub source: Address,
    pub destination: Address,
    pub source_port: u32,
    pub destination_port: u32,
}

impl Syn {
    #[inline(always)]
    pub fn read(context: *mut bpf_sk_lookup) -> Self {
        let is_v4 = word!(context, family) == AF_INET;
        let (source4, source6) = (word!(context, remote_ip4), address!(context, remote_ip6));
        let (destination4, destination6) = (word!(context, local_ip4), address!(context, local_ip6));
        Self {
            protocol: word!(context, protocol),
            ingress: word!(context, ingress_ifindex),
            is_v4,
            source: if is_v4 { Address::v4(source4) } else { source6 },
            destination: if is_v4 { Address::v4(destination4) } else { destination6 },
            source_port: u32::from(u16::from_be(word!(context, remote_port) as u16)),
            destination_port: word!(context, local_port),
        }
    }
}

/// The connection that a sock_ops program is told of.
#[inline(always)]
pub fn sockops_flow(context: *mut bpf_sock_ops) -> abi::Flow {
    let is_v4 = word!(context, family) == AF_INET;
    let (source4, source6) = (word!(context, local_ip4), address!(context, local_ip6));
    let (destination4, destination6) = (word!(context, remote_ip4), address!(context, remote_ip6));
    abi::Flow {
        source: if is_v4 { Address::v4(source4) } else { source6 },
        destination: if is_v4 { Address::v4(destination4) } else { destination6 },
        source_port: word!(context, local_port),
        // Here, unlike elsewhere, the port fills the upper half of a big-endian word.
        destination_port: u32::from_be(word!(context, remote_port)),
    }
}
