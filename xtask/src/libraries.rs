//! What a program that is linked dynamically needs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// As ldd(1) names them.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let answer = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    if text.contains("not found") {
        bail!("{}: a library is missing:\n{text}", program.display());
    }
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
