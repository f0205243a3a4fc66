//! The daemon as it is shipped.

use std::path::PathBuf;

use anyhow::Result;

use crate::{ebpf, setup, step, workspace};

/// Builds it, with all that it needs, and yields its path.
pub(crate) fn build() -> Result<PathBuf> {
    setup::everything()?;
    ebpf::build(&setup::for_ebpf()?)?;
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package", "ztunnel"]);
    step::run("building the daemon in release mode", &mut build, "")?;
    Ok(workspace::built("release", "ztunnel"))
}
