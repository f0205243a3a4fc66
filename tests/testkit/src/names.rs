//! Names of what a run makes outside of itself: `zt<pid>` for the process, `zt<pid>.<n>` for each of its topologies.
//! The process id in the name tells a later run whether anybody still needs the thing.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

const PREFIX: &str = "zt";

pub(crate) fn of_process() -> String {
    format!("{PREFIX}{}", std::process::id())
}

pub(crate) fn next_topology() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    format!("{}.{}", of_process(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Whether a run made this and is no more.
pub(crate) fn is_orphan(name: &str) -> bool {
    maker(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process that made the thing of this name, if a test kit did.
fn maker(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (pid, rest) = rest.split_at(end);
    (rest.is_empty() || rest.starts_with(['.', '-'])).then(|| pid.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_run_made_is_an_orphan() {
        assert!(!is_orphan(&of_process()));
        assert!(!is_orphan(&next_topology()));
        assert!(is_orphan("zt4194305.1-pod"), "above the highest process id there can be");
        for name in ["zt", "ztunnel", "zt12x", "cni-1234", "4194305"] {
            assert_eq!(maker(name), None, "{name}");
        }
    }
}
