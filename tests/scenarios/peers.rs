//! Peers that are none of our proxies: foreign, mistaken or hostile.
//!
//! They speak TLS with whatever certificate a test makes for them, and HTTP/2 properly or frame by frame. Whatever
//! one of them does, it gets nothing that is not its due, the daemon says why, and everybody else goes on.

mod abuse;
mod authority;
mod client;
mod federated;
mod foreign;
mod frames;
mod hostile_server;
mod refused;
mod requests;
mod server;
mod stalls;
mod storm;

use std::{future::Future, thread::JoinHandle, time::Duration};

use serde_json::Value;
use testkit::{Daemon, Mesh, Place, eventually};

use authority::{Authority, Leaf};
pub(crate) use storm::HandshakeStorm;

/// Longer than anything takes here that does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `work` inside, on a runtime of its own.
fn inside<F: Future<Output: Send + 'static>>(
    place: &Place,
    work: impl FnOnce() -> F + Send + 'static,
) -> F::Output {
    start_inside(place, work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The same, and does not wait.
fn start_inside<F: Future<Output: Send + 'static>>(
    place: &Place,
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<F::Output> {
    place.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, work()).await.expect("it hangs") })
    })
}

/// The certificate that `pod`'s proxy would have.
fn good(mesh: &Mesh, pod: &str) -> Leaf {
    Authority::of(mesh).leaf(&[&Mesh::identity(pod)], |_| ())
}

/// Inbound handshakes that failed for this reason.
fn failures(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric("ztunnel_handshake_failures_total", &[("reason", reason)]).unwrap()
}

fn all_failures(daemon: &Daemon) -> f64 {
    daemon.metric("ztunnel_handshake_failures_total", &[]).unwrap()
}

/// What the daemon's log says of peers it refused for this reason, once it says it of so many.
#[track_caller]
fn refusals(daemon: &Daemon, reason: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} times {reason} in the log"), || {
        let mut lines = daemon.log_lines().unwrap();
        lines.retain(|line| line["message"] == "refused" && line["reason"] == reason);
        (lines.len() >= count).then_some(lines)
    })
}
