//! No picture of this process's memory reaches a disk: workloads' private keys are in it.

/// No core dump is written, whatever the limits and the kernel's pattern say, and no process without the power to trace
/// all others reads our memory.
pub fn forbid_core_dumps() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "core dumps cannot be forbidden; private keys would be in them");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_crash_leaves_no_memory_behind() {
        super::forbid_core_dumps();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }
}
