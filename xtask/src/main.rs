//! The one front door for people and for continuous integration: `cargo xtask <verb>`.
//!
//! Every verb does its own set-up, says what takes long while it takes long, and on failure shows the end of
//! the output that matters and what to do about it.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod packages;
mod release;
mod setup;
mod step;
mod supervise;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

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
        #[arg(long, value_name = "FILTER")]
        only: Option<String>,
    },
    /// Measure what the mesh costs, against the same traffic without one
    Bench(bench::Options),
    /// Fuzz a parser of what comes from outside
    Fuzz(fuzz::Options),
    /// Install what building and running need: Debian packages, bpf-linker, and the tests' Python packages
    Setup,
    /// Build the kernel side into target/ebpf
    Ebpf,
    /// Build the daemon in release mode: target/release/ztunnel
    Build,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Demo(options) => demo::run(&options),
        Verb::Test { only } => test::run(only.as_deref()),
        Verb::Bench(options) => bench::run(&options),
        Verb::Fuzz(options) => fuzz::run(&options),
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
