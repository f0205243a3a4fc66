//! `ztunnel`: the node daemon of an ambient mesh.
#![forbid(unsafe_code)]

mod admin;
mod certificates;
mod config;
mod crowd;
mod files;
mod logging;
mod node;
mod offline;
mod plaintext;
mod run;
mod sockets;
mod state;
mod status;
mod verdicts;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::Settings;

/// Node proxy of an ambient service mesh: steers the traffic of this node's pods by eBPF and carries it to other
/// nodes inside mutual TLS (HBONE), so that no pod needs a sidecar.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve this node's pods until SIGTERM or SIGINT, then drain.
    ///
    /// Every setting can be given as a flag, as an environment variable, or in the file named by --config, and is
    /// taken from the first of these that has it.
    #[command(after_help = RUN_EXAMPLE)]
    Run(Box<Run>),
    /// Try whether this kernel can do what the redirection needs, in a scratch network namespace.
    ///
    /// Needs root. Prints one line for each feature; the exit status is 1 if any is missing. Do not run it inside
    /// the daemon's own process; beside a running daemon it does no harm.
    Check {
        /// A directory on a BPF file system, for scratch pins.
        #[arg(long, env = "ZTUNNEL_BPF_DIR", default_value = config::DEFAULT_BPF_DIR)]
        bpf_dir: PathBuf,
    },
    /// Say whether files would be accepted: mesh state, pods or configuration, told apart by their keys.
    ///
    /// Needs no daemon and no privilege. The exit status is 0 if all are valid, 1 if one is not, 2 if the command
    /// was not understood.
    Validate(offline::Validate),
    /// Tell what becomes of a connection and why, from files.
    ///
    /// Needs no daemon and no privilege. A connection to a service is explained for each of its endpoints. The exit
    /// status is 0 if it is allowed, 1 if it (or one of its endpoints) is refused, 2 if the question was not
    /// understood.
    #[command(after_help = offline::EXPLAIN_EXAMPLE)]
    Explain(offline::Explain),
    /// List who sends plaintext to whom, as the daemon of this node sees it: what strict mutual TLS would refuse.
    ///
    /// The exit status is 0 if there is none, 1 if there is, 2 if the daemon does not answer.
    Plaintext(plaintext::Plaintext),
}

#[derive(clap::Args)]
struct Run {
    /// A YAML file with any of the settings below, in camelCase: `stateFile: /etc/ztunnel/state.yaml`.
    #[arg(long, env = "ZTUNNEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

const RUN_EXAMPLE: &str = "\
Example:
  ztunnel run --state-file state.yaml --pods-file pods.yaml --ca-key ca.key --ca-certificate ca.pem
  curl http://127.0.0.1:15000/connections";

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(run) => serve(*run),
        Command::Check { bpf_dir } => check(bpf_dir),
        Command::Validate(files) => Ok(files.run()),
        Command::Explain(question) => Ok(question.run()),
        Command::Plaintext(question) => Ok(question.run()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ztunnel: {}", whole_story(&error));
        ExitCode::FAILURE
    })
}

/// The error with its causes, without those that it has told already.
fn whole_story(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |story, cause| match story.as_str() {
        "" => cause,
        told if told.contains(&cause) => story,
        told => format!("{told}: {cause}"),
    })
}

fn serve(run: Run) -> anyhow::Result<ExitCode> {
    let config = config::load(run.config.as_deref(), run.settings)?;
    let log = logging::start(&config)?;
    run::run(config, &log.dropped)?;
    Ok(ExitCode::SUCCESS)
}

fn check(bpf_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let report = runtime.block_on(redirect::check::self_test(bpf_dir));
    for feature in &report {
        println!("{feature}");
    }
    let missing = report.iter().filter(|feature| feature.result.is_err()).count();
    if missing == 0 {
        println!("this kernel has all that the redirection needs");
        return Ok(ExitCode::SUCCESS);
    }
    println!("missing: {missing} of {}", report.len());
    Ok(ExitCode::FAILURE)
}
