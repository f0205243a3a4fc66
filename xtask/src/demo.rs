//! The mesh at work on this machine, and proof of every word that is printed.
//!
//! The demo runs in a process of its own. This one waits for it, passes signals on, and removes whatever it left
//! behind, however it ended.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use crate::release;

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
    supervise(options, &daemon)
}

fn supervise(options: &Options, daemon: &Path) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["demo", "--inner"]).arg(daemon).args(options.keep.then_some("--keep"));
    let mut child = command.spawn().context("starting the demo")?;
    pass_on(signals, &child)?;
    let status = child.wait()?;
    testkit::sweep().context("removing what the demo left behind")?;
    if !status.success() {
        bail!("the demo did not end well ({status}); all it made is removed");
    }
    Ok(())
}

/// From now on, the signals we get are the child's.
fn pass_on(signals: SigSet, child: &Child) -> Result<()> {
    let child = Pid::from_raw(i32::try_from(child.id())?);
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            // Ctrl-C reaches the whole foreground group: it has its own already. Twice does no harm.
            if kill(child, signal).is_err() {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    });
    Ok(())
}
