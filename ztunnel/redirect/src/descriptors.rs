//! How many descriptors this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many this process has open, and how many it may have.
pub fn descriptors() -> (usize, usize) {
    // Counting opens one more, which is gone again by the time anybody reads the number.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    (open.saturating_sub(1), usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Raises the limit as far as this process may by itself, and answers with what it is then. Service managers often
/// start daemons with a soft limit of 1024, which is some five hundred connections.
pub fn raise_descriptor_limit() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}
