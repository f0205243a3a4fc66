//! Removes what runs that were killed left behind.

use std::{fs, path::Path, sync::Mutex};

use anyhow::Result;

use crate::{cgroup, names, namespace, requirements::BPFFS};

/// Directories in which runs keep something under their name.
fn directories() -> [std::path::PathBuf; 2] {
    [BPFFS.into(), std::env::temp_dir()]
}

/// Removes the cgroups (with all in them), namespaces, pins and files of dead runs. Safe to call while other runs are alive: their names carry their process ids.
pub fn sweep() -> Result<()> {
    // Two threads that sweep at once would trip over each other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    cgroup::sweep()?;
    namespace::sweep()?;
    for directory in directories() {
        sweep_directory(&directory)?;
    }
    Ok(())
}

fn sweep_directory(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if names::is_orphan(&entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
