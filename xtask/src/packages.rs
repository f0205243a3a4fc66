//! Packages of Debian and its kin. On other distributions nothing is installed, only named.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::step;

/// Installs those of `packages` that are not there. Quick when none is missing.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_debian() {
        bail!(
            "what Debian calls `{names}` is needed; install your distribution's packages of it and run this again"
        );
    }
    let cure = format!("Install them by hand as root: apt-get update && apt-get install {names}");
    let title = format!("apt-get install {names}");
    if step::run(&title, &mut install(&missing), &cure).is_ok() {
        return Ok(());
    }
    // The lists may be missing or older than the archive.
    step::run("apt-get update", apt_get().arg("update"), &cure)?;
    step::run(&title, &mut install(&missing), &cure)?;
    Ok(())
}

/// Whether programs of ours can come from packages here.
pub(crate) fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| {
        let (key, value) = line.split_once('=').unwrap_or_default();
        matches!(key, "ID" | "ID_LIKE") && value.trim_matches('"').split(' ').any(|id| id == "debian")
    })
}

fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    query.is_ok_and(|answer| answer.stdout == b"installed")
}

fn install(packages: &[&str]) -> Command {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    command
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Another apt may be at work: wait for its lock rather than fail.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]);
    command
}
