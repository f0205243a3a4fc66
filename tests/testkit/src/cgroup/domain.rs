//! The domain that this process lives in while it has topologies.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};

use super::{mount_point, of_task};
use crate::names;

/// Keeps the process in its domain. The last one to go moves it back to where it came from.
#[derive(Debug)]
pub(crate) struct Domain(());

#[derive(Default)]
struct State {
    users: usize,
    /// The domain, and where the process was before.
    paths: Option<(PathBuf, PathBuf)>,
}

static STATE: Mutex<State> = Mutex::new(State { users: 0, paths: None });

impl Domain {
    pub(crate) fn enter() -> Result<Self> {
        let mut state = lock();
        if state.users == 0 {
            state.paths = Some(move_in()?);
        }
        state.users += 1;
        Ok(Self(()))
    }

    pub(crate) fn path(&self) -> PathBuf {
        lock().paths.as_ref().map(|(domain, _)| domain.clone()).unwrap_or_default()
    }

    /// Moves a thread of ours out of a cgroup that is about to go.
    pub(super) fn take_back(thread: &str) -> io::Result<()> {
        let state = lock();
        let (domain, _) = state.paths.as_ref().ok_or(io::ErrorKind::NotFound)?;
        fs::write(domain.join("cgroup.threads"), thread)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let mut state = lock();
        state.users -= 1;
        if state.users > 0 {
            return;
        }
        if let Some((domain, origin)) = state.paths.take()
            && let Err(error) = move_out(&domain, &origin)
        {
            eprintln!("the cgroup {} stays behind: {error:#}", domain.display());
        }
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn move_in() -> Result<(PathBuf, PathBuf)> {
    let mount = mount_point()?;
    let origin = mount.join(of_task(Path::new("/proc/self/cgroup"))?);
    let domain = mount.join(names::of_process());
    fs::create_dir(&domain).with_context(|| format!("creating the cgroup {}", domain.display()))?;
    move_process(&domain)?;
    Ok((domain, origin))
}

fn move_out(domain: &Path, origin: &Path) -> Result<()> {
    move_process(origin)?;
    // What we started and did not end.
    let _ = fs::write(domain.join("cgroup.kill"), "1");
    super::remove_tree(domain)
}

fn move_process(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("moving this process to the cgroup {}", cgroup.display()))
}
