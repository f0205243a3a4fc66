//! The real daemon, as a process of its own, and all that can be asked of it from outside.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::ErrorKind,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Place, Process, seccomp};

mod http;
mod metrics;

const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;
const READINESS_PORT: u16 = 15021;
const START_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Of USER_HZ, which is 100 wherever Linux runs.
const TICK_MILLISECONDS: u64 = 10;

pub(crate) struct Launch<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) how: How<'a>,
    pub(crate) log: &'a Path,
    /// Where it takes what only the node's root may ask.
    pub(crate) socket: &'a Path,
    pub(crate) seccomp: Option<&'a Path>,
}

/// Where it has its configuration from.
pub(crate) enum How<'a> {
    File(&'a Path),
    /// Nothing but the environment, in this directory: as Istio's DaemonSet starts it.
    Istio(&'a Path, BTreeMap<String, String>),
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    place: Place,
    binary: PathBuf,
    log: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    pub(crate) fn launch(place: &Place, launch: &Launch<'_>) -> Result<Self> {
        ensure!(launch.binary.is_file(), "no daemon at {}: build it first", launch.binary.display());
        let log = File::options().create(true).append(true).open(launch.log)?;
        let mut command = Command::new(launch.binary);
        match &launch.how {
            How::File(config) => command.arg("run").arg("--config").arg(config),
            How::Istio(directory, variables) => {
                command.args(["proxy", "ztunnel"]).env_clear().envs(variables).current_dir(directory)
            }
        };
        command.stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        if let Some(profile) = launch.seccomp {
            seccomp::confine(&mut command, profile)?;
        }
        let process = place.start(command)?;
        let [binary, log, socket] = [launch.binary, launch.log, launch.socket].map(Path::to_owned);
        Ok(Self { process, place: place.clone(), binary, log, socket })
    }

    /// Waits until the daemon says that it serves.
    pub fn wait_until_ready(&self) -> Result<()> {
        let give_up = Instant::now() + START_DEADLINE;
        while !self.is_ready() {
            if self.has_ended() {
                let end = self.end().unwrap_or_default();
                bail!("the daemon ended{end}; its log ends with:\n{}", self.log_tail());
            }
            if Instant::now() > give_up {
                bail!(
                    "the daemon is not ready after {START_DEADLINE:?}; its log ends with:\n{}",
                    self.log_tail()
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Status and text of the readiness endpoint.
    pub fn readiness(&self) -> Result<(u16, String)> {
        let answer = http::get(&self.place, READINESS_PORT, "/healthz/ready")?;
        Ok((answer.status, answer.body))
    }

    pub fn is_ready(&self) -> bool {
        http::get(&self.place, READINESS_PORT, "/healthz/ready").is_ok_and(|answer| answer.status == 200)
    }

    /// Whether it is no longer running, waited for or not.
    pub fn has_ended(&self) -> bool {
        match fs::read_to_string(format!("/proc/{}/stat", self.id())) {
            Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
            // Too many open files of ours, for one, say nothing of the daemon.
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// How, as proc(5) has it of one that is not waited for: the last number of its line is that of wait(2).
    fn end(&self) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        let status = stat.split_whitespace().next_back()?.parse().ok()?;
        Some(format!(" ({})", ExitStatus::from_raw(status)))
    }

    /// A page of the admin endpoint.
    pub fn admin(&self, path: &str) -> Result<Value> {
        let answer = http::get(&self.place, ADMIN_PORT, path)?;
        ensure!(answer.status == 200, "{path}: status {} {}", answer.status, answer.body);
        serde_json::from_str(&answer.body).with_context(|| format!("{path} is not JSON: {}", answer.body))
    }

    /// What its Unix socket answers: the status, and the body as it is.
    pub fn over_socket(&self, method: &str, path: &str) -> Result<(u16, Vec<u8>)> {
        http::over_socket(&self.socket, method, path)
    }

    /// What loopback answers to a method and a path: the status, and the body.
    pub fn over_loopback(&self, method: &str, path: &str) -> Result<(u16, String)> {
        let answer = http::ask_for(&self.place, ADMIN_PORT, method, path)?;
        Ok((answer.status, answer.body))
    }

    /// The same of another port.
    pub fn over_port(&self, port: u16, method: &str, path: &str) -> Result<(u16, String)> {
        let answer = http::ask_for(&self.place, port, method, path)?;
        Ok((answer.status, answer.body))
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs one of the commands that ask it, over its socket.
    pub fn command(&self, arguments: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("ZTUNNEL_ADMIN", format!("unix:{}", self.socket.display()));
        command.stdin(Stdio::null());
        self.place.output(command)
    }

    /// The connections that are open now.
    pub fn connections(&self) -> Result<Vec<Value>> {
        match self.admin("/connections")? {
            Value::Array(connections) => Ok(connections),
            other => bail!("/connections is {other}"),
        }
    }

    /// Whether this pod is served, and without a problem.
    pub fn serves(&self, uid: &str) -> bool {
        let pods = self.admin("/pods").unwrap_or_default();
        let is_it = |pod: &&Value| pod["uid"] == uid && pod["enrolled"] == true && pod["problem"].is_null();
        pods.as_array().is_some_and(|pods| pods.iter().any(|pod| is_it(&pod)))
    }

    /// How often the kernel side has decided so, by the verdict's name.
    pub fn verdict(&self, name: &str) -> Result<u64> {
        self.admin("/verdicts")?[name].as_u64().with_context(|| format!("there is no verdict {name}"))
    }

    /// The sum of a metric's series that carry all of these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(metrics::sum(&self.metrics()?, name, labels))
    }

    /// The whole page.
    pub fn metrics(&self) -> Result<String> {
        let answer = http::get(&self.place, METRICS_PORT, "/metrics")?;
        ensure!(answer.status == 200, "/metrics: status {}", answer.status);
        Ok(answer.body)
    }

    /// The connections that have ended, oldest first: the fields of the access log.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        Ok(self.log_lines()?.into_iter().filter(|line| line["target"] == "access").map(fields).collect())
    }

    /// Every structured line of the log.
    pub fn log_lines(&self) -> Result<Vec<Value>> {
        let text =
            fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> Result<u64> {
        self.memory_as("VmRSS:")
    }

    /// The part of it that is not the pages of files, such as the program itself.
    pub fn own_memory(&self) -> Result<u64> {
        self.memory_as("RssAnon:")
    }

    /// The most that was ever resident, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        self.memory_as("VmHWM:")
    }

    /// Descriptors that are open.
    pub fn descriptors(&self) -> Result<usize> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id())).context("the daemon is gone")?;
        Ok(open.count())
    }

    /// Time it has spent on the processor, in user and kernel mode.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).context("the daemon is gone")?;
        // After the name in parentheses, which may hold anything: utime is the 12th field, stime the 13th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| {
            fields.get(index).context("/proc/<pid>/stat is short")?.parse::<u64>().context("ticks")
        };
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * TICK_MILLISECONDS))
    }

    /// By the name of a line in /proc/<pid>/status.
    fn memory_as(&self, name: &'static str) -> Result<u64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.id())).context("the daemon is gone")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context(name)?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes << 10)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Asks it to end, by SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end and yields its exit status.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let give_up = Instant::now() + deadline;
        loop {
            if let Some(status) = self.process.has_ended()? {
                return Ok(status);
            }
            ensure!(Instant::now() < give_up, "the daemon has not ended after {deadline:?}");
            std::thread::sleep(POLL);
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill().map(drop).context("killing the daemon")
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// The event's own fields, wherever the format puts them.
fn fields(mut line: Value) -> Value {
    if line["fields"].is_object() {
        let level = line["level"].take();
        let mut fields = line["fields"].take();
        fields["level"] = level;
        return fields;
    }
    line
}
