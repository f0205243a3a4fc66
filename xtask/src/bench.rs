//! What the mesh costs: builds the daemon and the benchmark in release mode, and lets the benchmark run.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{packages, release, step, supervise::supervise, workspace};

/// The sidecars that the daemon's memory is compared with.
const SIDECARS: [&str; 4] = ["haproxy", "libnginx-mod-stream", "nginx-light", "stunnel4"];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to measure: traffic, destinations, redirection, memory, scaling, workers [default: everything]
    parts: Vec<String>,
    /// Of the traffic, only the kinds whose name contains this, such as "requests 16"
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Fewer and shorter samples: three minutes instead of twelve
    #[arg(long)]
    quick: bool,
    /// Where every sample goes [default: target/bench/latest.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the report and its charts go, without an ending [default: target/bench/latest]
    #[arg(long, value_name = "NAME")]
    report: Option<PathBuf>,
    /// Another proxy's binary in the daemon's place; it must understand Istio's environment and ZDS
    #[arg(long, value_name = "BINARY")]
    proxy: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let daemon = release::build()?;
    packages::ensure(&SIDECARS)?;
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package", "ztunnel-bench"]);
    step::run("building the benchmark in release mode", &mut build, "")?;
    let directory = workspace::target().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let latest = directory.join("latest");
    let mut command = Command::new(workspace::built("release", "ztunnel-bench"));
    command.arg("run").args(&options.parts).args(options.quick.then_some("--quick"));
    command.arg("--daemon").arg(daemon);
    command.arg("--json").arg(options.json.clone().unwrap_or_else(|| latest.with_extension("json")));
    command.arg("--report").arg(options.report.clone().unwrap_or(latest));
    options.only.iter().for_each(|only| _ = command.arg("--only").arg(only));
    options.proxy.iter().for_each(|proxy| _ = command.arg("--proxy").arg(proxy));
    supervise("the benchmark", &mut command)
}
