//! What a machine must offer before anything else is tried. What is missing is named; nothing is ever skipped.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::cgroup;

pub const BPFFS: &str = "/sys/fs/bpf";

/// Numbers of linux/capability.h.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// Makes sure that namespaces, cgroups and eBPF can be had here. Mounts bpffs if nobody has.
pub fn check() -> Result<()> {
    let mut missing: Vec<String> = Vec::new();
    missing.extend(missing_capabilities()?.iter().map(|name| format!("the capability {name} (run as root)")));
    missing.extend(cgroup::mount_point().err().map(|error| format!("{error:#}")));
    missing.extend(ensure_bpffs().err().map(|error| format!("{error:#}")));
    if !has_program("ip") {
        missing.push("the program `ip` (Debian package iproute2)".to_owned());
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine cannot run nodes and pods; missing:\n  - {}", missing.join("\n  - "))
}

fn missing_capabilities() -> Result<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("no CapEff in /proc/self/status")?;
    let effective = u64::from_str_radix(line.trim(), 16)?;
    Ok(CAPABILITIES.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect())
}

fn ensure_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let is_bpffs =
        |line: &str| line.split(' ').nth(1) == Some(BPFFS) && line.split(' ').nth(2) == Some("bpf");
    if mounts.lines().any(is_bpffs) {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("bpffs at {BPFFS}, and mounting it"))
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| Path::new(&directory).join(name).is_file())
}
