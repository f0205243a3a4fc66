//! Network namespaces with a name, as `ip netns` knows them.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::names;

const DIRECTORY: &str = "/run/netns";

/// A network namespace; its name goes when this is dropped, and the kernel removes it once nobody is inside.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn create(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Moves the calling thread in.
    pub(crate) fn enter(&self) -> Result<()> {
        let path = self.path();
        let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// Deletes the namespaces of runs that are no more.
pub(crate) fn sweep() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if names::is_orphan(&name) {
            ip(&["netns", "delete", &name])?;
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let answer = Command::new("ip").args(arguments).output().context("running `ip`")?;
    let message = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.success(), "`ip {}`: {message}", arguments.join(" "));
    Ok(())
}

/// Runs lines of `ip` commands in the calling thread's namespace.
pub(crate) fn ip_batch(lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running `ip`")?;
    child.stdin.take().context("no standard input")?.write_all(lines.as_bytes())?;
    let answer = child.wait_with_output()?;
    let message = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.success(), "`ip -batch`: {message}in\n{lines}");
    Ok(())
}
