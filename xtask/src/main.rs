//! The one front door for people and for continuous integration: `cargo xtask <verb>`.
//!
//! Every verb does its own set-up, says what takes long while it takes long, and on failure shows the end of
//! the output that matters and what to do about it.
#![forbid(unsafe_code)]

mod bench;
mod cri;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod kernel;
mod kind;
mod libraries;
mod manifest;
mod packages;
mod release;
mod setup;
mod step;
mod supervise;
mod test;
mod toolchain;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and show the mesh", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show the mesh at work on this machine: two nodes, real traffic, proof from the wire
    Demo(demo::Options),
    /// Run everything: formatting, clippy, unit and property tests, scenarios with real eBPF
    Test {
        /// Only the tests whose names contain this
        #[arg(long, value_name = "FILTER", conflicts_with_all = ["cri", "kernel"])]
        only: Option<String>,
        /// Instead of all that: the image under containerd and runc, with real pods
        #[arg(long, conflicts_with = "kernel")]
        cri: bool,
        /// Instead of all that: Debian's kernels of these versions in an emulator, `6.1,6.12`
        #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
        kernel: Vec<String>,
        /// For --cri and --kernel: take the image's programs from here instead of building them
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
    },
    /// Measure what the mesh costs, against the same traffic without one
    Bench(bench::Options),
    /// Fuzz a parser of what comes from outside
    Fuzz(fuzz::Options),
    /// Install what building and running need: Debian packages, bpf-linker, and the tests' Python packages
    Setup,
    /// Build the kernel side into target/ebpf
    Ebpf,
    /// Build the container image, without a container engine: an OCI archive
    Image(image::Options),
    /// Try the chart and the image in a cluster of kind: needs docker, kind, kubectl and helm
    Kind(kind::Options),
    /// Write deploy/ztunnel.yaml: the chart, rendered with its defaults
    Manifest,
    /// Build the daemon in release mode: target/release/ztunnel
    Build,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Demo(options) => demo::run(&options),
        Verb::Test { cri: true, binaries, .. } => cri::run(binaries),
        Verb::Test { kernel, binaries, .. } if !kernel.is_empty() => kernel::run(&kernel, binaries),
        Verb::Test { only, .. } => test::run(only.as_deref()),
        Verb::Bench(options) => bench::run(&options),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Image(options) => image::run(&options),
        Verb::Kind(options) => kind::run(&options),
        Verb::Manifest => manifest::write().map(|file| println!("{}", file.display())),
        Verb::Setup => setup::everything().and_then(|()| setup::for_tests()),
        Verb::Build => release::build().map(|daemon| println!("{}", daemon.display())),
        Verb::Ebpf => setup::for_ebpf().and_then(|tools| ebpf::build(&tools)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
