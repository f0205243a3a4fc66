//! Uninstalling: everything that outlives a daemon is taken away, and pods talk plainly.
//!
//! Not what a stopping daemon does: its pods keep to their fail mode. No daemon may be there, or it would put back what is
//! taken away; its heartbeat tells.

use std::{
    fs, io,
    os::{fd::AsFd, linux::fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use abi::map;
use aya::maps::{Array, HashMap, Map, MapData};
use nix::time::{ClockId, clock_gettime};

use crate::{NetworkNamespace, RedirectError, bpf, pins, routing};

/// Daemons beat every second.
const STILL_ALIVE: Duration = Duration::from_secs(3);

/// What was there, and is no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub pods: usize,
    pub links: usize,
    /// Network namespaces whose rules and routes went.
    pub namespaces: usize,
}

/// Takes everything away that daemons have left under `bpf_dir`, and in the pods that they enrolled.
///
/// # Errors
/// [`RedirectError::StillServed`] if a daemon is there. Any other error leaves the rest to the next attempt; it may be
/// tried again.
pub async fn unenrol_all(bpf_dir: &Path) -> Result<Removed, RedirectError> {
    refuse_if_served(bpf_dir)?;
    let versions = versions(bpf_dir)?;
    let mut removed = Removed::default();
    for version in &versions {
        removed.pods += forget_pods(version)?;
    }
    let links = entries(&bpf_dir.join("links"), |_| true)?;
    let inodes: Vec<u64> = links.iter().filter_map(|link| namespace_of(link)).collect();
    for link in &links {
        pins::detach(link)?;
        removed.links += 1;
    }
    for namespace in namespaces_with(&inodes) {
        routing::remove(&namespace).await?;
        removed.namespaces += 1;
    }
    for directory in versions.iter().map(PathBuf::as_path).chain([bpf_dir.join("links").as_path(), bpf_dir]) {
        remove(directory)?;
    }
    Ok(removed)
}

/// Whether a daemon is there.
///
/// # Errors
/// [`RedirectError::StillServed`] if so.
pub fn refuse_if_served(bpf_dir: &Path) -> Result<(), RedirectError> {
    versions(bpf_dir)?.iter().try_for_each(|version| refuse_if_beating(version))
}

fn versions(bpf_dir: &Path) -> Result<Vec<PathBuf>, RedirectError> {
    entries(bpf_dir, |name| name.starts_with('v'))
}

fn refuse_if_beating(version: &Path) -> Result<(), RedirectError> {
    let Some(data) = pinned(version, map::HEARTBEAT)? else { return Ok(()) };
    let failed = |error| RedirectError::ebpf("the heartbeat", &error);
    let heartbeat = Array::<_, u64>::try_from(Map::Array(data)).map_err(failed)?;
    let beat = Duration::from_nanos(heartbeat.get(&0, 0).map_err(failed)?);
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    if now.saturating_sub(beat) < STILL_ALIVE { Err(RedirectError::StillServed) } else { Ok(()) }
}

/// From here on no new connection is captured.
fn forget_pods(version: &Path) -> Result<usize, RedirectError> {
    let Some(data) = pinned(version, map::PODS)? else { return Ok(0) };
    let failed = |error| RedirectError::ebpf("forgetting the pods", &error);
    let mut pods = HashMap::<_, u64, abi::Pod>::try_from(Map::HashMap(data)).map_err(failed)?;
    let cookies = pods.keys().collect::<Result<Vec<_>, _>>().map_err(failed)?;
    cookies.iter().try_for_each(|cookie| pods.remove(cookie)).map_err(failed)?;
    Ok(cookies.len())
}

fn pinned(version: &Path, name: &str) -> Result<Option<MapData>, RedirectError> {
    let path = version.join(name);
    if !path.exists() {
        return Ok(None);
    }
    MapData::from_pin(&path).map(Some).map_err(|error| RedirectError::ebpf("opening a pinned map", &error))
}

/// The inode of the network namespace that a pinned link is attached to, if it is attached to a living one.
fn namespace_of(link: &Path) -> Option<u64> {
    let name = link.file_name()?.to_str()?;
    if !name.starts_with("pod-") {
        return None;
    }
    let link = bpf::open_pinned(link).ok()?;
    let inode = bpf::link_info(link.as_fd()).ok()?.namespace;
    (inode != 0).then(|| inode.into())
}

/// Found by who is in them, or by a name that `ip netns` or a runtime gave them. One that is found by nothing has nobody
/// inside, and ends.
fn namespaces_with(inodes: &[u64]) -> Vec<NetworkNamespace> {
    let processes = children("/proc").map(|process| process.join("ns/net"));
    let named = ["/run/netns", "/proc/1/root/run/netns"].into_iter().flat_map(children);
    let mut found: Vec<NetworkNamespace> = Vec::new();
    for path in processes.chain(named) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let inode = metadata.st_ino();
        if !inodes.contains(&inode) || found.iter().any(|known| known.identity().1 == inode) {
            continue;
        }
        if let Ok(namespace) = NetworkNamespace::open(&path) {
            found.push(namespace);
        }
    }
    found
}

fn children(directory: &str) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn entries(directory: &Path, is_meant: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, RedirectError> {
    let failed = |source| RedirectError::Path { what: "reading", path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
        Ok(entries) => {
            let meant = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&is_meant));
            Ok(meant.map(|entry| entry.path()).collect())
        }
    }
}

fn remove(directory: &Path) -> Result<(), RedirectError> {
    match fs::remove_dir_all(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RedirectError::Path { what: "removing", path: directory.to_owned(), source })
        }
        _ => Ok(()),
    }
}
