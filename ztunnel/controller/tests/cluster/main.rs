//! Whole controllers in this process, in a cluster: a test API server always, and a real one where `KUBE_APISERVER` and `ETCD`
//! name binaries. Where they don't, a line says that it was not tried.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api;
mod daemon;
mod intermediate;
mod replica;
mod replicas;
mod roles;
mod root;
mod streams;
mod tokens;

use std::time::{Duration, Instant};

use api::Cluster;
use daemon::Daemon;
use replica::Replica;

/// Of the controller.
const OWN: &str = "ztunnel-system";

/// Asks until the answer is there, for as long as others may take.
#[track_caller]
fn within<T>(time: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + time;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < give_up, "{what}: not within {time:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
