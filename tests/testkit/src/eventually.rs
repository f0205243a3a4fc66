//! Waiting for what another process does in its own time.

use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Asks until the answer is there, and panics if it has not come in ten seconds.
#[track_caller]
#[expect(clippy::panic, reason = "a test that waits in vain has failed")]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        if Instant::now() > give_up {
            panic!("{what}: not within {DEADLINE:?}");
        }
        std::thread::sleep(POLL);
    }
}
