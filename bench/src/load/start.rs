//! Starts the programs of the load inside places.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, anyhow, ensure};
use testkit::{Node, Place, Pod, Process};

use super::order::{Order, Outcome};

/// A process inside a pod that does what it is told. It ends when this is dropped.
pub(crate) struct Client {
    process: Process,
    orders: ChildStdin,
    outcomes: BufReader<ChildStdout>,
    place: String,
}

impl Client {
    pub(crate) fn start(place: &Place) -> Result<Self> {
        let mut command = ourselves("client")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = place.start(command)?;
        let child = process.child();
        let orders = child.stdin.take().context("no standard input")?;
        let outcomes = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { process, orders, outcomes, place: place.name().to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Has it done, and waits for it.
    pub(crate) fn order(&mut self, order: &Order) -> Result<Outcome> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.orders.write_all(&line)?;
        let mut answer = String::new();
        self.outcomes.read_line(&mut answer)?;
        let outcome: Result<Outcome, String> =
            serde_json::from_str(&answer).with_context(|| format!("the client in {} ended", self.place))?;
        outcome.map_err(|error| anyhow!("{order:?} from {}: {error}", self.place))
    }
}

/// Answers clients inside `place`, and in `others` too.
pub(crate) fn server(place: &Place, others: &[PathBuf]) -> Result<Process> {
    let mut command = ourselves("server")?;
    others.iter().for_each(|namespace| _ = command.arg("--netns").arg(namespace));
    listening(place, command)
}

pub(crate) fn relay(place: &Place, from: SocketAddr, to: SocketAddr) -> Result<Process> {
    let mut command = ourselves("relay")?;
    command.args([from.to_string(), to.to_string()]);
    listening(place, command)
}

/// Answers at this port of `place`, too.
pub(crate) fn echo_at(place: &Place, port: u16) -> Result<Process> {
    let mut command = ourselves("server")?;
    command.args(["--echo", &port.to_string()]);
    listening(place, command)
}

/// In the place of the node's daemon, for one of its pods.
pub(crate) fn steer(node: &Node, pod: &Pod, bpf_dir: &Path) -> Result<Process> {
    let mut command = ourselves("steer")?;
    command.arg("--netns").arg(pod.netns()).arg("--bpf-dir").arg(bpf_dir);
    command.arg("--cgroup-root").arg(node.cgroup());
    pod.ips().iter().for_each(|ip| _ = command.arg("--ip").arg(ip.to_string()));
    listening(&node.daemon, command)
}

fn listening(place: &Place, mut command: Command) -> Result<Process> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = place.start(command)?;
    let stdout = process.child().stdout.take().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "listening\n", "a program of the load does not listen in {}", place.name());
    Ok(process)
}

fn ourselves(role: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}
