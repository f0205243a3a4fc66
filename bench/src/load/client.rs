//! The client's side: reads orders from standard input, does them one after the other, and says what came of each.

use std::io::{BufRead, Write};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use super::{
    bulk, connect,
    hold::Held,
    order::{Order, Outcome},
    requests,
};

pub(crate) fn run() -> Result<()> {
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut held = Held::default();
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let outcome = carry_out(order, &runtime, &mut held).map_err(|error| format!("{error:#}"));
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &outcome)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

pub(super) fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the descriptor limit")
}

fn carry_out(order: Order, runtime: &Runtime, held: &mut Held) -> Result<Outcome> {
    match order {
        Order::Bulk { server, streams, direction, millis } => bulk::run(server, streams, direction, millis),
        Order::Requests { server, connections, millis } => {
            runtime.block_on(requests::run(server, connections, millis))
        }
        Order::PingPong { server, size, millis } => requests::ping_pong(server, size, millis),
        Order::Connect { servers, count, at_once } => {
            runtime.block_on(connect::run(&servers, count, at_once))
        }
        Order::Hold { server, count } => runtime.block_on(held.open(server, count)),
        Order::Carry { bytes } => runtime.block_on(held.carry(bytes)),
        Order::Release => Ok(held.release()),
    }
}
