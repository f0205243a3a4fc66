//! What the mesh costs, against the same traffic without one. `cargo xtask bench` builds and starts it.
//!
//! ```text
//! parts     what is measured: traffic, memory, ...        each yields figures
//! stand     where: nodes and pods with a mesh, and the same without one
//! load      who talks: the client, the server and the relay, each a process inside a pod
//! measure   what it took: processor time and memory, from /proc
//! report    what comes out: JSON with every sample, Markdown, SVG, the goals
//! ```
#![forbid(unsafe_code)]

mod load;
mod measure;
mod options;
mod parts;
mod progress;
mod report;
mod stand;

use anyhow::Result;
use clap::Parser;

use options::{Options, Program};
use parts::Findings;

fn main() -> Result<()> {
    match Program::parse() {
        Program::Run(options) => run(&options),
        Program::Client => load::client::run(),
        Program::Server { netns, echo } => load::server::run(&netns, &echo),
        Program::Steer(pod) => load::steer::run(pod),
        Program::Relay { from, to } => load::relay::run(from, to),
    }
}

fn run(options: &Options) -> Result<()> {
    let mut findings = Findings::default();
    for part in options.parts() {
        // The others are worth having all the same.
        if let Err(error) = part.measure(options, &mut findings) {
            progress::failed(&format!("{part:?} ended early: {error:#}"));
        }
    }
    // Those who want them know where to look.
    findings.figures.sort_by_key(|figure| figure.table.ends_with("plain values"));
    report::write(options, &findings)?;
    let failures = progress::failures().len();
    anyhow::ensure!(failures == 0, "{failures} failures; the report has them");
    Ok(())
}
