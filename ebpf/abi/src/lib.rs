//! What the kernel side and the user side of the redirection share: map names, the types in those maps, the
//! numbers both must agree on, and the version of all of it.
//!
//! Every type is `repr(C)`, made of fixed-width integers or network-order words, without implicit padding;
//! the assertions at the end hold that. Change anything here and [`VERSION`] goes up: maps of different versions
//! are pinned side by side and never mixed.
#![no_std]

#[cfg(feature = "aya")]
mod user;

/// Of everything in this crate.
pub const VERSION: u32 = 1;
/// The symbol in each object that holds its [`VERSION`].
pub const VERSION_SYMBOL: &str = "ZTUNNEL_ABI_VERSION";

/// `SO_MARK` of steered sockets, and the key of the in-pod `ip rule`.
pub const STEER_MARK: u32 = 0x5a1;
/// The in-pod routing table that delivers marked packets to lo.
pub const STEER_TABLE: u32 = 0x5a1;
/// lo's index, the same in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;
/// The port on which peers offer the tunnel.
pub const HBONE_PORT: u16 = 15008;

/// A daemon that has not beaten for so long is gone, though its listeners may still be there (it is stopped or stuck).
pub const HEARTBEAT_TIMEOUT_NANOS: u64 = 10_000_000_000;
/// A kubelet probe's SYN must reach the pod within this time after `connect()`.
pub const PROBE_LIFETIME_NANOS: u64 = 5_000_000_000;

pub const MAX_PODS: u32 = 4096;
pub const MAX_LISTENERS: u32 = MAX_PODS * 3;
pub const MAX_PROBES: u32 = 8192;
/// Ports that a pod may keep out of the mesh, each way.
pub const MAX_EXCLUDED_PORTS: usize = 8;

/// Names of the maps, as the objects declare them and as they are pinned.
pub mod map {
    /// Network namespace cookie to [`crate::Pod`]. An entry is what makes a pod enrolled.
    pub const PODS: &str = "PODS";
    /// [`crate::ListenerKey`] to the listening socket.
    pub const LISTENERS: &str = "LISTENERS";
    /// Socket to [`crate::owner`].
    pub const OWNERS: &str = "OWNERS";
    /// [`crate::Flow`] of a kubelet probe to its time.
    pub const PROBES: &str = "PROBES";
    /// [`crate::Verdict`] to how often, per processor.
    pub const VERDICTS: &str = "VERDICTS";
    /// One cell: `CLOCK_MONOTONIC` nanoseconds of the daemon's last beat.
    pub const HEARTBEAT: &str = "HEARTBEAT";

    pub const ALL: [&str; 6] = [PODS, LISTENERS, OWNERS, PROBES, VERDICTS, HEARTBEAT];
}

/// Read-only variables of the objects, set before loading.
pub mod global {
    /// In the node object: cookie of the node's own network namespace, 0 for none.
    pub const NODE_COOKIE: &str = "NODE_COOKIE";
    /// In the node object: cgroup id of the kubelet, 0 for none.
    pub const KUBELET_CGROUP: &str = "KUBELET_CGROUP";
    /// In the pod object: cookie of the pod's network namespace.
    pub const POD_COOKIE: &str = "POD_COOKIE";
}

/// IPv6, or IPv4 mapped into it: four words in network byte order, as socket contexts give them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub [u32; 4]);

/// An enrolled pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its IPv4 address, mapped; zero if it has none.
    pub v4: Address,
    /// Its IPv6 address; zero if it has none.
    pub v6: Address,
    /// Bits of [`pod_flags`].
    pub flags: u32,
    pub reserved: u32,
    /// Destination ports, host byte order, that its connections may reach uncaptured; zero for none.
    pub excluded_outbound: [u16; MAX_EXCLUDED_PORTS],
    /// Its own ports, host byte order, that are reached uncaptured; zero for none.
    pub excluded_inbound: [u16; MAX_EXCLUDED_PORTS],
}

pub mod pod_flags {
    /// With no daemon to serve it, the pod's connections are refused instead of let through in plaintext.
    pub const FAIL_CLOSED: u32 = 1;
    /// The pod takes mutual TLS only: every address it has is guarded, not just the mesh's.
    pub const STRICT: u32 = 2;
}

/// One of a pod's three listeners.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerKey {
    pub cookie: u64,
    /// One of [`role`].
    pub role: u32,
    pub reserved: u32,
}

/// What a listener is for. No identity is read from anything else.
pub mod role {
    pub const OUTBOUND: u32 = 1;
    pub const INBOUND_PLAINTEXT: u32 = 2;
    pub const INBOUND_HBONE: u32 = 3;
}

/// Whose a socket is. Socket storage cannot be written without CAP_BPF, so no pod forges it.
pub mod owner {
    /// The daemon's: never captured.
    pub const DAEMON: u32 = 1;
    /// The kubelet's, towards a pod.
    pub const KUBELET: u32 = 2;
    /// An application's, which carries our mark and is bound to lo because we steered it.
    pub const STEERED: u32 = 3;
}

/// A connection as its client sees it, ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: Address,
    pub destination: Address,
    pub source_port: u32,
    pub destination_port: u32,
}

/// Everything the programs decide, counted in [`map::VERDICTS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// connect: steered to the daemon.
    Steered = 0,
    /// connect: the daemon's own socket.
    DaemonPassed = 1,
    /// connect: loopback, the pod itself, link-local or multicast.
    LocalPassed = 2,
    /// connect: an excluded port.
    ExcludedPassed = 3,
    /// connect: no daemon, and the pod is fail-open.
    OpenPassed = 4,
    /// connect: no daemon, and the pod is fail-closed.
    ClosedRefused = 5,
    /// connect: the socket could not be steered, as when it is bound to a device.
    UnsteerableRefused = 6,
    /// connect: the application had set our mark itself; it was taken off or made true.
    ForgedMark = 7,
    /// setsockopt: mark or device of a socket on its way or open.
    RerouteRefused = 8,
    /// lookup: to the daemon, outbound.
    OutboundAssigned = 9,
    /// lookup: to the daemon, plaintext from outside.
    PlaintextAssigned = 10,
    /// lookup: to the daemon, tunnel from outside.
    HboneAssigned = 11,
    /// lookup: from the daemon, or from the pod itself, to the application.
    ApplicationPassed = 12,
    /// lookup: a kubelet probe.
    ProbePassed = 13,
    /// lookup: an excluded port.
    InboundExcludedPassed = 14,
    /// lookup: no daemon, and the pod is fail-open.
    InboundOpenPassed = 15,
    /// lookup: no daemon, and the pod is fail-closed.
    InboundClosedDropped = 16,
    /// connect: a kubelet socket was tagged.
    ProbeTagged = 17,
}

impl Verdict {
    pub const ALL: [Self; 18] = [
        Self::Steered,
        Self::DaemonPassed,
        Self::LocalPassed,
        Self::ExcludedPassed,
        Self::OpenPassed,
        Self::ClosedRefused,
        Self::UnsteerableRefused,
        Self::ForgedMark,
        Self::RerouteRefused,
        Self::OutboundAssigned,
        Self::PlaintextAssigned,
        Self::HboneAssigned,
        Self::ApplicationPassed,
        Self::ProbePassed,
        Self::InboundExcludedPassed,
        Self::InboundOpenPassed,
        Self::InboundClosedDropped,
        Self::ProbeTagged,
    ];

    /// The word for metrics and the admin endpoint.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steered => "steered",
            Self::DaemonPassed => "daemon_passed",
            Self::LocalPassed => "local_passed",
            Self::ExcludedPassed => "excluded_passed",
            Self::OpenPassed => "open_passed",
            Self::ClosedRefused => "closed_refused",
            Self::UnsteerableRefused => "unsteerable_refused",
            Self::ForgedMark => "forged_mark",
            Self::RerouteRefused => "reroute_refused",
            Self::OutboundAssigned => "outbound_assigned",
            Self::PlaintextAssigned => "plaintext_assigned",
            Self::HboneAssigned => "hbone_assigned",
            Self::ApplicationPassed => "application_passed",
            Self::ProbePassed => "probe_passed",
            Self::InboundExcludedPassed => "inbound_excluded_passed",
            Self::InboundOpenPassed => "inbound_open_passed",
            Self::InboundClosedDropped => "inbound_closed_dropped",
            Self::ProbeTagged => "probe_tagged",
        }
    }
}

impl Address {
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// `word` in network byte order.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, Self::MAPPED, word])
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    #[inline(always)]
    pub const fn is_unset(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
        }
    }

    /// Addresses that never leave the machine or the link, so no tunnel leads there: loopback, unspecified (which
    /// the kernel turns into loopback), link-local, multicast, broadcast.
    #[inline(always)]
    pub const fn is_local_only(&self) -> bool {
        if self.is_v4() {
            let word = u32::from_be(self.0[3]);
            // 240.0.0.0/4 but its last address is routed, and some clouds give it to pods.
            let is_multicast_or_broadcast = word >> 28 == 0xe || word == u32::MAX;
            word == 0 || word >> 24 == 127 || is_multicast_or_broadcast || word >> 16 == 0xa9fe
        } else {
            let first = u32::from_be(self.0[0]);
            let loopback_or_unset =
                first == 0 && self.0[1] == 0 && self.0[2] == 0 && u32::from_be(self.0[3]) <= 1;
            loopback_or_unset || first >> 22 == 0x3fa || first >> 24 == 0xff
        }
    }
}

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<Pod>() == 16 + 16 + 4 + 4 + 2 * 2 * MAX_EXCLUDED_PORTS);
    assert!(core::mem::offset_of!(Pod, flags) == 32);
    assert!(size_of::<ListenerKey>() == 16);
    assert!(size_of::<Flow>() == 40);
    let mut index = 0;
    while index < Verdict::ALL.len() {
        assert!(Verdict::ALL[index] as usize == index);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::Address;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn v4(text: &str) -> Address {
        Address::v4(u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets()))
    }

    fn v6(text: &str) -> Address {
        let octets = text.parse::<Ipv6Addr>().unwrap().octets();
        let word =
            |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        Address([word(0), word(4), word(8), word(12)])
    }

    #[test]
    fn addresses_no_tunnel_leads_to_are_local_only() {
        for text in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255"] {
            assert!(v4(text).is_local_only(), "{text}");
        }
        for text in ["::", "::1", "fe80::1", "febf::1", "ff02::1"] {
            assert!(v6(text).is_local_only(), "{text}");
        }
    }

    #[test]
    fn only_loopback_is_loopback() {
        for text in ["127.0.0.1", "127.255.0.9"] {
            assert!(v4(text).is_loopback(), "{text}");
        }
        assert!(v6("::1").is_loopback());
        for text in ["::", "::2", "fe80::1", "fd00::1", "1::1"] {
            assert!(!v6(text).is_loopback(), "{text}");
        }
        for text in ["0.0.0.0", "10.0.0.127", "128.0.0.1"] {
            assert!(!v4(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn addresses_of_pods_and_the_world_are_not_local_only() {
        for text in
            ["10.0.0.1", "126.0.0.1", "128.0.0.1", "169.253.0.1", "223.255.255.255", "240.0.0.1", "8.8.8.8"]
        {
            assert!(!v4(text).is_local_only(), "{text}");
        }
        for text in ["fd00::1", "2001:db8::1", "fec0::1", "::2", "64:ff9b::1"] {
            assert!(!v6(text).is_local_only(), "{text}");
        }
        assert_eq!(v6("::ffff:10.0.0.1"), v4("10.0.0.1"));
    }
}
