//! `ztunnel seccomp-profile`: which system calls the daemon makes, as container runtimes read it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;

const PROFILE: &str = include_str!("../../../deploy/seccomp/ztunnel.json");

#[derive(clap::Args)]
pub(crate) struct SeccompProfile {
    /// Into this file, in one piece, instead of to standard output; its directory is made.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

impl SeccompProfile {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.write {
            Some(path) => write(path).with_context(|| format!("writing {}", path.display()))?,
            None => std::io::stdout().write_all(PROFILE.as_bytes())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A runtime may read it at any time, for the daemon before this one.
fn write(path: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let aside = path.with_extension("new");
    fs::write(&aside, PROFILE)?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_written_whole_where_a_kubelet_looks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seccomp/ztunnel.json");
        for _ in 0..2 {
            SeccompProfile { write: Some(path.clone()) }.run().unwrap();
            let written: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(written["defaultAction"], "SCMP_ACT_ERRNO");
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a file is left behind");
    }
}
