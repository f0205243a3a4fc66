//! The object loaded once per pod: at a SYN, which socket is it for?
//!
//! One instance per pod, its namespace cookie frozen in `.rodata`: the lookup hook may not ask for the cookie, and
//! addresses alone do not tell pod A's outbound SYN to B from the proxy's SYN to B's application on the same node.
#![no_std]
#![no_main]

use abi::{
    Address, Flow, HBONE_PORT, LOOPBACK_INDEX, ListenerKey, PROBE_LIFETIME_NANOS, Pod, Verdict, pod_flags,
    role,
};
use aya_ebpf::{
    Global,
    helpers::{bpf_ktime_get_ns, bpf_sk_assign},
    macros::sk_lookup,
    programs::SkLookupContext,
};
use ztunnel_ebpf::{
    PASS, REFUSE,
    context::{Syn, is_tcp},
    maps::{Listener, PODS, PROBES, count},
};

#[unsafe(no_mangle)]
static POD_COOKIE: Global<u64> = Global::new(0);

#[used]
#[unsafe(no_mangle)]
static ZTUNNEL_ABI_VERSION: u32 = abi::VERSION;

#[sk_lookup]
pub fn pod_lookup(context: SkLookupContext) -> u32 {
    let syn = Syn::read(context.lookup);
    let cookie = POD_COOKIE.load();
    // SAFETY: entries are replaced whole by user space.
    let Some(pod) = (unsafe { PODS.get(&cookie) }) else {
        // Not (or no longer) enrolled: its traffic is its own.
        return PASS as u32;
    };
    let Some(verdict) = judge(&syn, pod) else { return PASS as u32 };
    let (verdict, answer) = match listener_role(verdict) {
        Some(role) => assign(&context, ListenerKey { cookie, role, reserved: 0 }, pod, verdict),
        None => (verdict, PASS),
    };
    count(verdict);
    answer as u32
}

/// `None`: nothing of ours.
#[inline(always)]
fn judge(syn: &Syn, pod: &Pod) -> Option<Verdict> {
    if !is_tcp(syn.protocol) {
        return None;
    }
    let own = if syn.is_v4 { &pod.v4 } else { &pod.v6 };
    let to_pod = *own == syn.destination;
    if syn.ingress == LOOPBACK_INDEX {
        // Loopback traffic is the application's own; it cannot come from outside.
        if syn.destination.is_local_only() {
            return None;
        }
        // Over lo to the pod's address: the daemon's leg to the application, or the application calling itself.
        // Over lo to any other: steered there by connect().
        return Some(if to_pod { Verdict::ApplicationPassed } else { Verdict::OutboundAssigned });
    }
    if !to_pod && !guards_every_address(pod, &syn.destination) {
        return None;
    }
    if from_itself(syn, own) {
        return Some(Verdict::ApplicationPassed);
    }
    // Nothing passes the tunnel's port, not even an excluded port or a probe.
    if syn.destination_port == HBONE_PORT as u32 {
        return Some(Verdict::HboneAssigned);
    }
    if excluded(&pod.excluded_inbound, syn.destination_port) {
        return Some(Verdict::InboundExcludedPassed);
    }
    if from_kubelet(syn) {
        return Some(Verdict::ProbePassed);
    }
    Some(Verdict::PlaintextAssigned)
}

/// A strict pod must not be reached around the mesh at another of its addresses, such as its link-local one.
#[inline(always)]
fn guards_every_address(pod: &Pod, destination: &Address) -> bool {
    pod.flags & pod_flags::STRICT != 0 && !destination.is_unset()
}

/// A connection of the pod to itself shows the device of its own address here, not lo. From the wire, both families
/// have dropped a loopback source and IPv4 the pod's own as a martian; IPv6 has not, but the answer to it stays here,
/// so nobody out there can finish a handshake.
#[inline(always)]
fn from_itself(syn: &Syn, own: &Address) -> bool {
    syn.source == *own || syn.source.is_loopback()
}

#[inline(always)]
fn excluded(ports: &[u16; abi::MAX_EXCLUDED_PORTS], port: u32) -> bool {
    let mut found = false;
    for candidate in ports {
        found |= *candidate as u32 == port && port != 0;
    }
    found
}

#[inline(always)]
fn from_kubelet(syn: &Syn) -> bool {
    let flow = Flow {
        source: syn.source,
        destination: syn.destination,
        source_port: syn.source_port,
        destination_port: syn.destination_port,
    };
    // SAFETY: a torn or reused LRU entry can only give another probe's time of the same flow.
    let Some(tagged_at) = (unsafe { PROBES.get(&flow) }) else { return false };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    now.wrapping_sub(*tagged_at) < PROBE_LIFETIME_NANOS
}

#[inline(always)]
fn listener_role(verdict: Verdict) -> Option<u32> {
    match verdict {
        Verdict::OutboundAssigned => Some(role::OUTBOUND),
        Verdict::PlaintextAssigned => Some(role::INBOUND_PLAINTEXT),
        Verdict::HboneAssigned => Some(role::INBOUND_HBONE),
        _ => None,
    }
}

/// Hands the SYN to the daemon. With nobody there, the pod's own choice holds; outbound, only the daemon can be
/// meant, since connect() steered it here.
#[inline(always)]
fn assign(context: &SkLookupContext, key: ListenerKey, pod: &Pod, verdict: Verdict) -> (Verdict, i32) {
    if let Some(listener) = Listener::find(&key) {
        // SAFETY: both pointers are valid here; the listener is released below in every case.
        let result = unsafe { bpf_sk_assign(context.lookup.cast(), listener.as_ptr(), 0) };
        listener.release();
        if result == 0 {
            return (verdict, PASS);
        }
    }
    let closed = pod.flags & pod_flags::FAIL_CLOSED != 0 || key.role == role::OUTBOUND;
    if closed { (Verdict::InboundClosedDropped, REFUSE) } else { (Verdict::InboundOpenPassed, PASS) }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Kernel helpers we use are for GPL-compatible programs only; this is the name the kernel knows for that.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
