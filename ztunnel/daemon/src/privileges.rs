//! What the threads that carry connections may do: what entering a pod's namespace and opening sockets there takes, and no
//! more, whatever the daemon was started with.
//!
//! docs/SECURITY.md has the reason for each, and for those that the daemon needs besides.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

const DATA_PLANE: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::NET_ADMIN);

/// Nothing that is executed from here on has more than we have.
pub(crate) fn forbid_more() {
    if let Err(error) = set_no_new_privs(true) {
        tracing::warn!(%error, "programs that this one would start could have more privileges");
    }
}

/// Of the calling thread. Those that it does not have stay so.
pub(crate) fn keep_for_data_plane() {
    let reduced = capabilities(None).and_then(|now| {
        let kept = now.permitted & DATA_PLANE;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets)
    });
    if let Err(error) = reduced {
        tracing::warn!(%error, "a thread of the data plane keeps more privileges than it needs");
    }
}
