//! The command line. People use it by `cargo xtask bench`; the programs of the load are this one, started again.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser};

use crate::{load::steer, parts::Part};

#[derive(Parser)]
#[command(name = "ztunnel-bench", about = "What the mesh costs, against the same traffic without one")]
pub(crate) enum Program {
    /// Measure
    Run(Options),
    /// Do what standard input orders, from inside a pod
    #[command(hide = true)]
    Client,
    /// Answer clients, in these network namespaces besides the own one
    #[command(hide = true)]
    Server {
        #[arg(long)]
        netns: Vec<PathBuf>,
        /// One more port to echo at
        #[arg(long)]
        echo: Vec<u16>,
    },
    /// Echo what the eBPF programs steer here from a pod
    #[command(hide = true)]
    Steer(steer::Pod),
    /// Carry bytes from one socket to another, and nothing else
    #[command(hide = true)]
    Relay { from: SocketAddr, to: SocketAddr },
}

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// The daemon, in release mode
    #[arg(long, value_name = "FILE")]
    pub(crate) daemon: PathBuf,
    /// Of the traffic, only the kinds whose name contains this, such as "requests 16"
    #[arg(long, value_name = "FILTER")]
    pub(crate) only: Option<String>,
    /// Fewer and shorter samples: three minutes instead of twelve
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where every sample goes
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where the report and its charts go, as NAME.md and NAME.svg
    #[arg(long, value_name = "NAME")]
    pub(crate) report: Option<PathBuf>,
    /// Another proxy that understands Istio's environment and ZDS, to stand in the daemon's place
    #[arg(long, value_name = "FILE")]
    pub(crate) proxy: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parts(&self) -> Vec<Part> {
        if self.parts.is_empty() { Part::all() } else { self.parts.clone() }
    }
}
