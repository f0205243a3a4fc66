//! The plain manifest, for those without helm: the chart with its defaults.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// Writes it, and yields where.
pub(crate) fn write() -> Result<PathBuf> {
    let file = workspace::root().join("deploy/ztunnel.yaml");
    fs::write(&file, chart::manifest()?).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}
