//! Packages of Debian and its kin. On other distributions nothing is installed, only named.

use std::{env, fs, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, Result, bail};

use crate::{step, workspace};

/// Installs those of `packages` that are not there. Quick when none is missing.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() { Ok(()) } else { install_newest(&missing) }
}

/// Installs the packages of those programs that are nowhere on the path.
pub(crate) fn ensure_programs(programs: &[(&str, &str)]) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let mut missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { install_newest(&missing) }
}

/// Installs `packages`, or replaces them by the newest that the archive has.
pub(crate) fn install_newest(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !is_debian() {
        bail!(
            "what Debian calls `{names}` is needed; install your distribution's packages of it and run this again"
        );
    }
    let cure = format!("Install them by hand as root: apt-get update && apt-get install {names}");
    // Lists older than the archive name packages that are gone, or too old for us. Without a network, though, what
    // the lists name may still lie in apt's cache.
    static LISTS: OnceLock<Result<()>> = OnceLock::new();
    let lists = LISTS.get_or_init(|| step::run("apt-get update", apt_get().arg("update"), &cure).map(drop));
    let installed = step::run(&format!("apt-get install {names}"), &mut install(packages), &cure).map(drop);
    match (installed, lists) {
        (Err(error), Err(update)) => Err(error.context(format!("and before it, {update:#}"))),
        (result, _) => result,
    }
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
    // Nothing that somebody has goes for it: Docker's containerd and Debian's, for one, are not to be had together.
    command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages);
    command
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Another apt may be at work: wait for its lock rather than fail.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// What a package holds, unpacked into a directory of ours: nothing is installed, so it is in nobody's way.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf> {
    if !is_debian() {
        bail!("Debian's package {package} is needed, and this is no Debian or Ubuntu");
    }
    let directory = workspace::target().join("tools/packages").join(package);
    if directory.is_dir() {
        return Ok(directory);
    }
    let aside = directory.with_extension("new");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(&aside).with_context(|| format!("creating {}", aside.display()))?;
    let cure = format!("Is {package} in the archive? apt-get update && apt-cache policy {package}");
    // As root, apt would like to be another user, who may not write here.
    let mut download = apt_get();
    download.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(&aside);
    step::run(&format!("apt-get download {package}"), &mut download, &cure)?;
    let files = fs::read_dir(&aside)?.flatten().map(|entry| entry.path());
    let file = files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "deb"));
    let file = file.with_context(|| format!("apt-get download {package} left no file"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&file).arg(&aside);
    step::run(&format!("unpacking {package}"), &mut unpack, &cure)?;
    fs::remove_file(file)?;
    fs::rename(&aside, &directory)?;
    Ok(directory)
}
