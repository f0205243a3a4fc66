//! The commands that ask the daemon of this node: what is here is how it is asked, and how the answer is shown.

mod client;
mod commands;
mod question;
mod screen;
mod top;

pub(crate) use client::Endpoint;
pub(crate) use commands::{Certificates, Connections, Log, Named, Pods, Workloads};
pub(crate) use question::Question;
pub(crate) use top::Top;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::offline::NOT_UNDERSTOOD;

/// The exit status of a command that asks: whoever reads the answer may stop reading.
pub(crate) fn finish(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result.and_then(|()| Ok(io::stdout().flush()?)) else { return ExitCode::SUCCESS };
    let stopped_reading = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<io::Error>().is_some_and(stopped_reading) {
        return ExitCode::SUCCESS;
    }
    eprintln!("ztunnel: {}", crate::whole_story(&error));
    ExitCode::from(NOT_UNDERSTOOD)
}
