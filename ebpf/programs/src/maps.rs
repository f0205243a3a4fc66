//! The maps, by the names in `abi::map`, and the few ways they are used.

use core::{
    ffi::c_void,
    ptr::{addr_of, read_volatile},
};

use abi::{Flow, HEARTBEAT_TIMEOUT_NANOS, ListenerKey, MAX_LISTENERS, MAX_PODS, MAX_PROBES, Pod, Verdict};
use aya_ebpf::{
    bindings::bpf_sock,
    btf_maps::SkStorage,
    helpers::{bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_sk_release},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, SockHash},
};

#[map]
pub static PODS: HashMap<u64, Pod> = HashMap::with_max_entries(MAX_PODS, 0);
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(MAX_LISTENERS, 0);
#[map]
pub static PROBES: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(MAX_PROBES, 0);
#[map]
pub static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::ALL.len() as u32, 0);
#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
#[btf_map]
pub static OWNERS: SkStorage<u32> = SkStorage::new();

/// `include/net/tcp_states.h`
const TCP_LISTEN: u32 = 10;

pub fn count(verdict: Verdict) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: the cell is this processor's own, and programs are not preempted by themselves.
        unsafe { *counter += 1 };
    }
}

/// A listening socket of the daemon, referenced until dropped.
pub struct Listener(*mut c_void);

impl Listener {
    /// The daemon's listener for `key`, if the daemon lives.
    #[inline(always)]
    pub fn find(key: &ListenerKey) -> Option<Self> {
        if !daemon_beats() {
            return None;
        }
        // SAFETY: LISTENERS is a socket map and the key has its key type; a socket comes back referenced.
        let socket =
            unsafe { bpf_map_lookup_elem(addr_of!(LISTENERS) as *mut c_void, addr_of!(*key).cast()) };
        if socket.is_null() { None } else { Some(Self(socket)) }
    }

    /// A socket whose daemon was killed may stand in the map for a moment, closed.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        let socket = self.0.cast::<bpf_sock>();
        // SAFETY: not null by construction; the verifier rewrites the access to the real socket.
        unsafe { read_volatile(addr_of!((*socket).state)) == TCP_LISTEN }
    }

    #[inline(always)]
    pub fn as_ptr(&self) -> *mut c_void {
        self.0
    }

    /// Not `Drop`: the verifier follows a reference only along plain calls.
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: referenced by `find`, released once since `self` is consumed.
        unsafe { bpf_sk_release(self.0) };
    }
}

fn daemon_beats() -> bool {
    // SAFETY: the map lives as long as the program; a torn read is impossible for an aligned u64.
    let last = HEARTBEAT.get(0).map_or(0, |beat| unsafe { read_volatile(beat) });
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    now.wrapping_sub(last) < HEARTBEAT_TIMEOUT_NANOS || last > now
}
