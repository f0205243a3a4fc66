//! `ztunnel`: the node daemon of an ambient mesh.
#![forbid(unsafe_code)]

mod admin;
mod ask;
mod certificates;
mod cni;
mod config;
mod controller;
mod discovery;
mod explanation;
mod files;
mod istio;
mod logging;
mod metrics;
mod node;
mod offline;
mod plaintext;
mod plugin;
mod pods;
mod preflight;
mod private_socket;
mod privileges;
mod profile;
mod run;
mod seccomp;
mod sockets;
mod state;
mod status;
mod table;
mod unenrol;
mod upkeep;
mod verdicts;
mod wait;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::Flags;

/// The system's allocator, and samples of what it gives while `/debug/pprof/heap/profiling` is on.
#[global_allocator]
static HEAP: redirect::heap::SampledHeap = redirect::heap::SampledHeap;

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
    /// Serve as Istio's DaemonSet asks, by its arguments and environment: `ztunnel proxy ztunnel`.
    ///
    /// XDS_ADDRESS, CA_ADDRESS, INPOD_UDS and the other variables of Istio's proxy are taken; docs/ISTIO.md has what becomes
    /// of each. Flags and ZTUNNEL_ variables go before them, and they before the file named by --config.
    Proxy(Box<Proxy>),
    /// Try whether this kernel can do what the redirection needs, in a scratch network namespace; or look over a cluster.
    ///
    /// Needs root. Prints one line for each feature; the exit status is 1 if any is missing. Do not run it inside
    /// the daemon's own process; beside a running daemon it does no harm.
    ///
    /// With --cluster, the API server of a cluster is asked instead, and nothing changed: what stands in the way of
    /// installing there. The exit status is 0 if nothing does, 1 if something does, 2 if it is not known in whole.
    Check {
        /// A directory on a BPF file system, for scratch pins.
        #[arg(long, env = "ZTUNNEL_BPF_DIR", default_value = config::DEFAULT_BPF_DIR)]
        bpf_dir: PathBuf,
        #[command(flatten)]
        cluster: preflight::Cluster,
    },
    /// Say whether files would be accepted: mesh state, pods or configuration, told apart by their keys.
    ///
    /// Needs no daemon and no privilege. The exit status is 0 if all are valid, 1 if one is not, 2 if the command
    /// was not understood.
    Validate(offline::Validate),
    /// Tell what becomes of a connection and why: service, endpoint, path, mutual TLS, policy.
    ///
    /// This node's daemon answers, by the state in force, and tells what it has seen of such connections besides. With
    /// --state, files are asked instead: that needs no daemon and no privilege. A connection to a service is explained for
    /// each of its endpoints. The exit status is 0 if it is allowed, 1 if it (or one of its endpoints) is refused, 2 if
    /// the question was not understood, 3 if it is not decided here: by a waypoint, or by an address that only DNS knows.
    #[command(after_help = offline::EXPLAIN_EXAMPLE)]
    Explain(offline::Explain),
    /// List the workloads of the mesh, as this node's daemon knows them.
    Workloads(ask::Workloads),
    /// List the services of the mesh, with their addresses, ports and healthy endpoints.
    Services(ask::Named),
    /// List the authorization policies in force, and what of them is not enforced.
    Policies(ask::Named),
    /// List the certificates of this node's workloads: state, serial, when they expire and are renewed.
    Certificates(ask::Certificates),
    /// List this node's pods: enrolled or not, and why not.
    Pods(ask::Pods),
    /// List the connections of this node's pods: path, mutual TLS or not, policy, bytes; or what was refused, and why.
    #[command(after_help = CONNECTIONS_EXAMPLE)]
    Connections(ask::Connections),
    /// Show what is logged, or change it while the daemon runs.
    #[command(after_help = LOG_EXAMPLE)]
    Log(ask::Log),
    /// Show the connections that carry the most, fastest first, until q or Ctrl-C.
    Top(ask::Top),
    /// List who sends plaintext to whom, as the daemon of this node sees it: what strict mutual TLS would refuse.
    ///
    /// The exit status is 0 if there is none, 1 if there is, 2 if the daemon does not answer.
    Plaintext(plaintext::Plaintext),
    /// Take the mesh off this node: programs, pins, rules and routes in the pods, the CNI plugin and its configuration.
    ///
    /// What a restarted daemon needs is gone then, and pods talk plainly: this is for uninstalling, and is not what happens
    /// when a daemon stops. Needs root. It refuses while a daemon runs.
    Unenrol(unenrol::Unenrol),
    /// Serve state and certificates to the daemons of a cluster that has no control plane: what a Deployment runs.
    ///
    /// Watches the Kubernetes API; speaks the same protocols as istiod, so that daemons need no setting of their own. Any
    /// replica serves, one leads: it makes the mesh's root, once, and writes the status of policies.
    #[command(after_help = controller::EXAMPLE)]
    Controller(Box<controller::Controller>),
    /// Print the seccomp profile of the daemon, or put it where the kubelet looks for profiles: for the chart.
    SeccompProfile(seccomp::SeccompProfile),
    /// Wait for a DaemonSet of the cluster to be ready, or forever: for the chart, when it is uninstalled.
    Wait(wait::Wait),
}

#[derive(clap::Args)]
struct Run {
    /// A YAML file with any of the settings below, in camelCase: `stateFile: /etc/ztunnel/state.yaml`.
    #[arg(long, env = "ZTUNNEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Proxy {
    /// Which proxy: there is one.
    #[arg(value_enum, value_name = "PROXY")]
    _kind: ProxyKind,
    #[command(flatten)]
    run: Run,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ProxyKind {
    Ztunnel,
}

const RUN_EXAMPLE: &str = "\
Example:
  ztunnel run --state-file state.yaml --pods-file pods.yaml --ca-key ca.key --ca-certificate ca.pem
  ztunnel connections";

const CONNECTIONS_EXAMPLE: &str = "\
Examples:
  ztunnel connections web -n default                  # whose workload or service has `web` in its name
  ztunnel connections --plaintext                     # what mutual TLS does not protect
  ztunnel connections --denied                        # what was refused lately, why, and by which policy
  ztunnel connections --denied --reason denied_by_policy --json
  ztunnel connections --watch=5s                      # again and again, until q";

const LOG_EXAMPLE: &str = "\
Examples:
  ztunnel log                                         # what is logged now
  ztunnel log debug                                   # all of it
  ztunnel log access=off                              # no line for each connection, and the rest as it is
  ztunnel log ztunnel_proxy=debug,ztunnel_tunnel=debug
  ztunnel log --reset                                 # as configured";

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(run) => serve(&run),
        Command::Proxy(proxy) => serve_as_istio_asks(&proxy.run),
        Command::Check { cluster, .. } if cluster.is_asked_for() => cluster.run(),
        Command::Check { bpf_dir, .. } => check(bpf_dir),
        Command::Validate(files) => Ok(files.run()),
        Command::Explain(question) => Ok(question.run()),
        Command::Workloads(list) => Ok(list.run()),
        Command::Services(list) => Ok(list.run("/services")),
        Command::Policies(list) => Ok(list.run("/policies")),
        Command::Certificates(list) => Ok(list.run()),
        Command::Pods(list) => Ok(list.run()),
        Command::Connections(list) => Ok(list.run()),
        Command::Log(log) => Ok(log.run()),
        Command::Top(top) => Ok(top.run()),
        Command::Plaintext(question) => Ok(question.run()),
        Command::Unenrol(all) => all.run(),
        Command::Controller(controller) => controller.run().map(|()| ExitCode::SUCCESS),
        Command::SeccompProfile(profile) => profile.run(),
        Command::Wait(what) => what.run(),
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

fn serve(run: &Run) -> anyhow::Result<ExitCode> {
    let config = config::load(run.config.as_deref(), &run.flags)?;
    let log = logging::start(&config)?;
    run::run(config, &log)?;
    Ok(ExitCode::SUCCESS)
}

fn serve_as_istio_asks(run: &Run) -> anyhow::Result<ExitCode> {
    let variables = istio::Variables::of_process();
    let (config, ignored) = istio::load(run.config.as_deref(), &run.flags, &variables)?;
    let log = logging::start(&config)?;
    if !ignored.is_empty() {
        let variables = ignored.join(" ");
        tracing::info!(variables, "variables of Istio's that change nothing here; docs/ISTIO.md says why");
    }
    run::run(config, &log)?;
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
