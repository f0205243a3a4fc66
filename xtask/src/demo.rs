//! The mesh at work on this machine, and proof of every word that is printed.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{release, supervise::supervise};

mod report;
mod show;
mod traffic;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the nodes up until Ctrl-C, and say how to look around
    #[arg(long)]
    keep: bool,
    /// The demo itself with this daemon, without set-up
    #[arg(long, hide = true, value_name = "DAEMON")]
    inner: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(daemon) = &options.inner {
        return show::run(daemon, options.keep);
    }
    let daemon = release::build()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["demo", "--inner"]).arg(daemon).args(options.keep.then_some("--keep"));
    supervise("the demo", &mut command)
}
