//! The plugin's binary, where the runtime looks for it.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::write_whole;
use crate::config::Install;

/// The two files when they were last found to be the same.
#[derive(Debug, Default)]
pub(super) struct Seen(Option<[Stamp; 2]>);

/// Changes with every change of a file, whatever time it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// Puts it there if it is not, or is another; answers with where, if so.
pub(super) fn place(section: &Install, seen: &mut Seen) -> anyhow::Result<Option<PathBuf>> {
    let source = match &section.binary {
        Some(path) => path.clone(),
        None => beside_us()?,
    };
    let target = section.binary_directory.join(ztunnel_cni::PLUGIN);
    let stamps = || Some([Stamp::of(&source).ok()?, Stamp::of(&target).ok()?]);
    // By what is in them: the files of an image all show one time, and two versions may have one length.
    if seen.0.is_some() && seen.0 == stamps() {
        return Ok(None);
    }
    let content = fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
    let is_there = fs::read(&target).is_ok_and(|there| there == content);
    if !is_there {
        write_whole(&target, &content, 0o755)?;
    }
    seen.0 = stamps();
    Ok((!is_there).then_some(target))
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Ok(Self { inode: metadata.ino(), length: metadata.len(), changed })
    }
}

fn beside_us() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("asking for the daemon's own path")?;
    Ok(own.with_file_name(ztunnel_cni::PLUGIN))
}
