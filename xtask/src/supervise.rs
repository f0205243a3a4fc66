//! Runs what makes nodes and pods in a process of its own: waits for it, passes signals on, and removes whatever it left
//! behind, however it ended.

use std::{
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

pub(crate) fn supervise(what: &str, command: &mut Command) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let mut child = command.spawn().with_context(|| format!("starting {what}"))?;
    pass_on(signals, &child)?;
    let status = child.wait()?;
    testkit::sweep().with_context(|| format!("removing what {what} left behind"))?;
    if !status.success() {
        bail!("{what} did not end well ({status}); all it made is removed");
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
