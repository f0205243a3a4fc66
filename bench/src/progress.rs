//! Says what is being measured, so that nobody wonders whether it still runs, and remembers what went wrong.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Instant,
};

static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(crate) fn say(what: &str) {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    let elapsed = STARTED.get_or_init(Instant::now).elapsed();
    eprintln!("  {:>4} s  {what}", elapsed.as_secs());
}

/// It will be in the report.
pub(crate) fn failed(what: &str) {
    say(&format!("FAILED: {what}"));
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
}

pub(crate) fn failures() -> Vec<String> {
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
