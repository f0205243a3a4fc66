//! The plugin's binary, where the runtime looks for it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::write_whole;
use crate::config::Install;

/// Puts it there if it is not, or is another; answers with where, if so.
pub(super) fn place(section: &Install) -> anyhow::Result<Option<PathBuf>> {
    let source = match &section.binary {
        Some(path) => path.clone(),
        None => beside_us()?,
    };
    let target = section.binary_directory.join(ztunnel_cni::PLUGIN);
    if is_like(&source, &target).with_context(|| format!("looking at {}", source.display()))? {
        return Ok(None);
    }
    let content = fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
    write_whole(&target, &content, 0o755)?;
    // So that the next look is quick.
    let modified = fs::metadata(&source).and_then(|metadata| metadata.modified());
    if let Ok(modified) = modified {
        let file = fs::File::options().write(true).open(&target);
        // Else it is written once more, which does no harm.
        let _ = file.and_then(|file| file.set_modified(modified));
    }
    Ok(Some(target))
}

fn beside_us() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("asking for the daemon's own path")?;
    Ok(own.with_file_name(ztunnel_cni::PLUGIN))
}

/// By length and time of change.
fn is_like(source: &Path, target: &Path) -> std::io::Result<bool> {
    let (source, target) = (fs::metadata(source)?, fs::metadata(target));
    let Ok(target) = target else { return Ok(false) };
    Ok(source.len() == target.len() && source.modified()? == target.modified()?)
}
