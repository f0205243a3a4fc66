//! Says what is being measured, so that nobody wonders whether it still runs.

use std::{sync::OnceLock, time::Instant};

pub(crate) fn say(what: &str) {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    let elapsed = STARTED.get_or_init(Instant::now).elapsed();
    eprintln!("  {:>4} s  {what}", elapsed.as_secs());
}
