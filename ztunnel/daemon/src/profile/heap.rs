//! What memory is live, and where it was allocated.

use std::{
    collections::HashMap,
    ptr::without_provenance_mut,
    time::{Duration, SystemTime},
};

use redirect::heap::{INTERVAL, live};

use super::encode::{Encoder, Frame};

/// Estimates, from samples.
pub(crate) fn heap_profile() -> Vec<u8> {
    let (live, missed) = live();
    if missed > 0 {
        tracing::warn!(missed, "the heap profile tells of less than there is: too many samples are live");
    }
    let interval = i64::try_from(INTERVAL).unwrap_or(i64::MAX);
    let values = [("inuse_objects", "count"), ("inuse_space", "bytes")];
    let mut profile = Encoder::new(&values, ("space", "bytes"), interval);
    let mut known: HashMap<usize, Vec<Frame>> = HashMap::new();
    for memory in live {
        let stack: Vec<Frame> = memory
            .stack
            .iter()
            .flat_map(|&address| known.entry(address).or_insert_with(|| frames(address)).clone())
            .collect();
        let [count, bytes] =
            [memory.count, memory.bytes].map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        profile.sample(&stack, &[count, bytes], None);
    }
    profile.finish(SystemTime::now(), Duration::ZERO)
}

/// A return address is that of the next instruction, so one before it is looked up. Several where functions were inlined.
fn frames(address: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    backtrace::resolve(without_provenance_mut(address.saturating_sub(1)), |symbol| {
        frames.push(Frame {
            function: symbol.name().map_or_else(|| format!("{address:#x}"), |name| format!("{name:#}")),
            file: symbol.filename().map(|file| file.display().to_string()).unwrap_or_default(),
            line: symbol.lineno().unwrap_or_default(),
        });
    });
    frames
}
