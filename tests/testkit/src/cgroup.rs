//! Hand-made cgroups that stand in for those of pods.
//!
//! Tests want threads of one process to be in different pods, which cgroup v2 allows below a *threaded* directory.
//! So the process moves once to a domain of its own, `<mount>/zt<pid>`, and every directory below it is threaded:
//!
//! ```text
//! zt<pid>            domain: the test process and all it starts
//! └─ zt<pid>.1       one topology
//!    └─ node1        where that node's daemon attaches its hooks
//!       ├─ client    a pod
//!       └─ kubelet
//! ```
//!
//! A socket belongs to the cgroup of the thread that makes it, and a new thread or program starts in the cgroup of
//! the thread that starts it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, gettid},
};

use crate::names;

mod domain;

pub(crate) use domain::Domain;

/// A directory cannot go before the last of its tasks has.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.
pub fn mount_point() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let mount = table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4))?
    });
    mount
        .map(PathBuf::from)
        .context("a cgroup v2 file system (try: mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

/// The calling thread's cgroup, below the mount.
pub fn of_current_thread() -> Result<PathBuf> {
    of_task(Path::new("/proc/thread-self/cgroup"))
}

fn of_task(file: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(PathBuf::from).with_context(|| format!("no cgroup v2 line in {}", file.display()))
}

/// A threaded cgroup. Dropping it moves our own threads out, kills what else is in it, and removes it.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("creating the cgroup {}", path.display()))?;
        let group = Self(path);
        fs::write(group.0.join("cgroup.type"), "threaded")
            .with_context(|| format!("this kernel does not make {} a threaded cgroup", group.0.display()))?;
        Ok(group)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Moves the calling thread to the cgroup at `path`.
    pub(crate) fn join_at(path: &Path) -> Result<()> {
        fs::write(path.join("cgroup.threads"), gettid().to_string())
            .with_context(|| format!("moving a thread to the cgroup {}", path.display()))
    }

    fn empty(&self) -> io::Result<()> {
        let threads = fs::read_to_string(self.0.join("cgroup.threads"))?;
        for thread in threads.lines() {
            // A task that has ended meanwhile is no failure.
            if Path::new("/proc/self/task").join(thread).exists() {
                let _ = Domain::take_back(thread);
            } else if let Some(process) = process_of(thread) {
                let _ = kill(process, Signal::SIGKILL);
            }
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let give_up = Instant::now() + REMOVAL_DEADLINE;
        loop {
            let _ = self.empty();
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound && Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    eprintln!("the cgroup {} stays behind: {error}", self.0.display());
                    return;
                }
                _ => return,
            }
        }
    }
}

fn process_of(thread: &str) -> Option<Pid> {
    let status = fs::read_to_string(Path::new("/proc").join(thread).join("status")).ok()?;
    let id = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    id.trim().parse().ok().map(Pid::from_raw)
}

/// Kills and removes the cgroups of runs that are no more.
pub(crate) fn sweep() -> Result<()> {
    let mount = mount_point()?;
    for entry in fs::read_dir(&mount)?.flatten() {
        if names::is_orphan(&entry.file_name().to_string_lossy()) {
            let _ = fs::write(entry.path().join("cgroup.kill"), "1");
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    let give_up = Instant::now() + REMOVAL_DEADLINE;
    while let Err(error) = fs::remove_dir(directory) {
        if error.kind() == io::ErrorKind::NotFound {
            break;
        }
        anyhow::ensure!(Instant::now() < give_up, "the cgroup {} stays: {error}", directory.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
