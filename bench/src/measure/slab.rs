//! What the kernel holds for sockets, of the whole machine, from `/proc/slabinfo`.

use std::fs;

use anyhow::{Context, Result};

/// The caches that grow with sockets, and hardly with anything else.
const CACHES: [&str; 10] = [
    "TCP",
    "TCPv6",
    "sock_inode_cache",
    "filp",
    "dentry",
    "eventpoll_epi",
    "eventpoll_pwq",
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
    "request_sock_TCP",
];

/// In bytes.
pub(crate) fn of_sockets() -> Result<u64> {
    let text = fs::read_to_string("/proc/slabinfo").context("reading /proc/slabinfo, which takes root")?;
    Ok(sum(&text))
}

fn sum(text: &str) -> u64 {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let known = CACHES.contains(&fields.next()?);
        let active: u64 = fields.next()?.parse().ok()?;
        let size: u64 = fields.nth(1)?.parse().ok()?;
        known.then_some(active * size)
    });
    lines.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a column that is taken for another, and caches that have nothing to do with sockets.
    #[test]
    fn active_objects_times_their_size() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\nTCP  10 20 2304 14 8 : tunables 0\nTCPv6 1 1 2560 12\nbtrfs 9 9 9 9\n";
        assert_eq!(sum(text), 10 * 2304 + 2560);
    }
}
