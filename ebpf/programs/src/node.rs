//! The object loaded once per node: what may an application's `connect()` and `setsockopt()` do?
//!
//! An enrolled pod's TCP socket is given our mark and bound to lo. The mark leads its packets into the in-pod
//! routing table that delivers them locally; lo keeps them there if the routing is tampered with. No address is
//! rewritten.
#![no_std]
#![no_main]

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut, read_volatile},
};

use abi::{Address, LOOPBACK_INDEX, ListenerKey, Pod, STEER_MARK, Verdict, owner, pod_flags, role};
use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_set_retval, bpf_setsockopt,
        generated::bpf_sk_storage_get,
    },
    macros::{cgroup_sock_addr, cgroup_sockopt, sock_ops},
    programs::{SockAddrContext, SockOpsContext, SockoptContext},
};
use aya_log_ebpf::warn;
use ztunnel_ebpf::{
    PASS, REFUSE,
    context::{
        connect_destination4, connect_destination6, connect_port, connect_protocol, is_tcp, sockops_flow,
    },
    maps::{Listener, OWNERS, PODS, PROBES, count},
};

#[unsafe(no_mangle)]
static NODE_COOKIE: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static KUBELET_CGROUP: Global<u64> = Global::new(0);

#[used]
#[unsafe(no_mangle)]
static ZTUNNEL_ABI_VERSION: u32 = abi::VERSION;

// include/uapi/asm-generic/socket.h, include/net/tcp_states.h, include/uapi/linux/bpf.h, errno
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const SO_MARK: i32 = 36;
const SO_BINDTOIFINDEX: i32 = 62;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
const BPF_SOCK_OPS_TCP_CONNECT_CB: u32 = 3;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

#[cgroup_sock_addr(connect4)]
pub fn node_connect4(context: SockAddrContext) -> i32 {
    connect(&context, connect_destination4(context.sock_addr))
}

#[cgroup_sock_addr(connect6)]
pub fn node_connect6(context: SockAddrContext) -> i32 {
    connect(&context, connect_destination6(context.sock_addr))
}

#[inline(always)]
fn connect(context: &SockAddrContext, destination: Address) -> i32 {
    if !is_tcp(connect_protocol(context.sock_addr)) {
        return PASS;
    }
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_netns_cookie(context.sock_addr.cast()) };
    if cookie == NODE_COOKIE.load() {
        tag_kubelet(context);
        return PASS;
    }
    // SAFETY: entries are replaced whole by user space.
    let Some(pod) = (unsafe { PODS.get(&cookie) }) else { return PASS };
    let owner = owner_of(context);
    if owner != owner::DAEMON && owner != owner::STEERED && mark_of(context) == STEER_MARK {
        count(Verdict::ForgedMark);
        warn!(context, "forged mark in network namespace {}", cookie);
    }
    let verdict = match judge(context, cookie, pod, owner, &destination) {
        Verdict::Steered if !steer(context) => Verdict::UnsteerableRefused,
        // Only a privileged process's socket can be taken off lo again, from where the pod's own address never answers.
        Verdict::LocalPassed if !unsteer(context, owner) && !destination.is_local_only() => {
            Verdict::UnsteerableRefused
        }
        Verdict::ExcludedPassed | Verdict::OpenPassed if !unsteer(context, owner) => {
            Verdict::UnsteerableRefused
        }
        verdict => verdict,
    };
    count(verdict);
    match verdict {
        // Its own socket, known by storage that only CAP_BPF can write.
        Verdict::DaemonPassed => PASS,
        // The mark and the device now lead to the daemon and nowhere else.
        Verdict::Steered => PASS,
        // Stays on this machine or link. A socket that could not be taken off lo suits what stays here; a link-local
        // peer is out of its reach, which errs on the safe side.
        Verdict::LocalPassed => PASS,
        // The user keeps this port, or chose this pod to outlive the daemon; the socket carries nothing of ours.
        Verdict::ExcludedPassed | Verdict::OpenPassed => PASS,
        // No daemon, so no encryption: nothing leaves.
        Verdict::ClosedRefused => refuse(ECONNREFUSED),
        // An application's own binding to a device would lead it past us, or ours leads it nowhere.
        Verdict::UnsteerableRefused => {
            warn!(context, "unsteerable socket refused in network namespace {}", cookie);
            refuse(EHOSTUNREACH)
        }
        // Of other hooks; unreachable here, so refuse.
        _ => refuse(EHOSTUNREACH),
    }
}

#[inline(always)]
fn judge(context: &SockAddrContext, cookie: u64, pod: &Pod, owner: u32, destination: &Address) -> Verdict {
    if owner == owner::DAEMON {
        return Verdict::DaemonPassed;
    }
    let own = if destination.is_v4() { &pod.v4 } else { &pod.v6 };
    if destination.is_local_only() || (*own == *destination && !own.is_unset()) {
        return Verdict::LocalPassed;
    }
    let port = connect_port(context.sock_addr);
    for excluded in &pod.excluded_outbound {
        if *excluded == port && port != 0 {
            return Verdict::ExcludedPassed;
        }
    }
    if daemon_listens(cookie) {
        Verdict::Steered
    } else if pod.flags & pod_flags::FAIL_CLOSED != 0 {
        Verdict::ClosedRefused
    } else {
        Verdict::OpenPassed
    }
}

/// Asked here because a dropped SYN would only time out.
#[inline(always)]
fn daemon_listens(cookie: u64) -> bool {
    let key = ListenerKey { cookie, role: role::OUTBOUND, reserved: 0 };
    let Some(listener) = Listener::find(&key) else { return false };
    let open = listener.is_open();
    listener.release();
    open
}

#[inline(always)]
fn refuse(errno: i32) -> i32 {
    // SAFETY: sets this system call's return value only.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

/// Mark and device together: with the mark alone, `SO_BINDTODEVICE` in SYN_SENT led an ordinary process out.
#[inline(always)]
fn steer(context: &SockAddrContext) -> bool {
    let mut steered = owner::STEERED;
    // SAFETY: the context is the kernel's; the value is copied.
    let tag = unsafe { OWNERS.get_or_insert_ptr_mut(context, Some(&mut steered)) };
    if tag.is_null() {
        return false;
    }
    // An unprivileged process's bound socket cannot be bound again, not even to the same device.
    (device_of(context) == LOOPBACK_INDEX || bind_to_device(context, *b"lo\0\0"))
        && set_mark(context, STEER_MARK)
}

/// Takes mark and device off a socket that was steered before, or that was marked by its application.
#[inline(always)]
fn unsteer(context: &SockAddrContext, owner: u32) -> bool {
    if mark_of(context) == STEER_MARK && !set_mark(context, 0) {
        return false;
    }
    owner != owner::STEERED || device_of(context) != LOOPBACK_INDEX || bind_to_device(context, [0; 4])
}

/// From BPF this option takes a name, as from user space.
#[inline(always)]
fn bind_to_device(context: &SockAddrContext, mut name: [u8; 4]) -> bool {
    set_option(context, SO_BINDTODEVICE, addr_of_mut!(name).cast())
}

#[inline(always)]
fn set_mark(context: &SockAddrContext, mut mark: u32) -> bool {
    set_option(context, SO_MARK, addr_of_mut!(mark).cast())
}

#[inline(always)]
fn set_option(context: &SockAddrContext, option: i32, four_bytes: *mut c_void) -> bool {
    // SAFETY: the callers' values are four bytes long and live through the call.
    unsafe { bpf_setsockopt(context.sock_addr.cast(), SOL_SOCKET, option, four_bytes, 4) == 0 }
}

#[inline(always)]
fn owner_of(context: &SockAddrContext) -> u32 {
    // SAFETY: the storage outlives this call, as its socket does.
    unsafe {
        let tag = OWNERS.get_ptr_mut(context);
        if tag.is_null() { 0 } else { *tag }
    }
}

#[inline(always)]
fn mark_of(context: &SockAddrContext) -> u32 {
    // SAFETY: a connecting socket is never null; the verifier checks the field.
    unsafe {
        let socket = (*context.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() { 0 } else { read_volatile(addr_of!((*socket).mark)) }
    }
}

#[inline(always)]
fn device_of(context: &SockAddrContext) -> u32 {
    // SAFETY: as in `mark_of`.
    unsafe {
        let socket = (*context.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() { 0 } else { read_volatile(addr_of!((*socket).bound_dev_if)) }
    }
}

/// Not every process of the node's namespace and never the node's address: the kubelet's own sockets only.
#[inline(always)]
fn tag_kubelet(context: &SockAddrContext) {
    let kubelet = KUBELET_CGROUP.load();
    // SAFETY: no arguments.
    if kubelet == 0 || unsafe { bpf_get_current_cgroup_id() } != kubelet {
        return;
    }
    let mut tag = owner::KUBELET;
    // SAFETY: the context is the kernel's; the value is copied.
    unsafe { OWNERS.get_or_insert_ptr_mut(context, Some(&mut tag)) };
}

/// On its way or open, a socket of an enrolled pod keeps the mark and the device it has.
#[cgroup_sockopt(setsockopt)]
pub fn node_setsockopt(context: SockoptContext) -> i32 {
    let options = context.sockopt;
    // SAFETY: the context is the kernel's.
    let (level, name, socket) = unsafe {
        let level = read_volatile(addr_of!((*options).level));
        let name = read_volatile(addr_of!((*options).optname));
        (level, name, (*options).__bindgen_anon_1.sk)
    };
    let reroutes = name == SO_MARK || name == SO_BINDTODEVICE || name == SO_BINDTOIFINDEX;
    if level != SOL_SOCKET || !reroutes || socket.is_null() {
        return PASS;
    }
    // SAFETY: not null.
    let (state, protocol) =
        unsafe { (read_volatile(addr_of!((*socket).state)), read_volatile(addr_of!((*socket).protocol))) };
    // Before connect() the options are free: the hook above has the last word.
    if state == TCP_CLOSE || state == TCP_LISTEN || !is_tcp(protocol) {
        return PASS;
    }
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_netns_cookie(options.cast()) };
    // SAFETY: only looked at for presence.
    if unsafe { PODS.get(&cookie) }.is_none() {
        return PASS;
    }
    count(Verdict::RerouteRefused);
    warn!(&context, "option {} refused on an open socket in network namespace {}", name, cookie);
    REFUSE
}

/// Tells the pod's lookup program of a kubelet socket's SYN before it is sent.
#[sock_ops]
pub fn node_sockops(context: SockOpsContext) -> u32 {
    let operation = context.ops;
    // SAFETY: the context is the kernel's.
    if unsafe { read_volatile(addr_of!((*operation).op)) } != BPF_SOCK_OPS_TCP_CONNECT_CB {
        return PASS as u32;
    }
    let flow = sockops_flow(operation);
    // SAFETY: the context is the kernel's; socket and storage are checked before they are read.
    let is_kubelet = unsafe {
        let socket = (*operation).__bindgen_anon_2.sk;
        if socket.is_null() {
            return PASS as u32;
        }
        let storage = addr_of!(OWNERS) as *mut c_void;
        let tag = bpf_sk_storage_get(storage, socket.cast(), core::ptr::null_mut(), 0).cast::<u32>();
        !tag.is_null() && *tag == owner::KUBELET
    };
    if is_kubelet {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        if PROBES.insert(&flow, &now, 0).is_ok() {
            count(Verdict::ProbeTagged);
        }
    }
    PASS as u32
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Kernel helpers we use are for GPL-compatible programs only; this is the name the kernel knows for that.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
