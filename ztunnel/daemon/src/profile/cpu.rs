//! Where processor time goes: the stacks that are found running, so and so often in a second.
//!
//! The timer's signal interrupts whichever thread runs, and its stack is walked right there. That is sound only where no
//! lock of the allocator, the unwinder or the loader can be held: a thread that is inside their libraries is let go
//! without a sample. System calls are taken up again by the kernel or, like epoll_wait, by tokio.

use std::{
    thread::sleep,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use pprof::{Frames, ProfilerGuardBuilder};

use super::encode::{Encoder, Frame};

/// Their locks may be held by whom the signal interrupts.
const NOT_WALKED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// One at a time: there is one timer.
static RUNNING: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuProfile {
    pub(crate) seconds: u16,
    /// Samples a second, of each thread that runs.
    pub(crate) frequency: u16,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("another profile is being taken; wait for its end")]
    Running,
    #[error("the profile cannot be taken: {0}")]
    Failed(#[from] pprof::Error),
}

impl CpuProfile {
    /// Blocks for as long as it takes.
    pub(crate) fn take(self) -> Result<Vec<u8>, ProfileError> {
        let _running = RUNNING.try_lock().ok_or(ProfileError::Running)?;
        let (started, duration) = (SystemTime::now(), Duration::from_secs(self.seconds.into()));
        let sampling = ProfilerGuardBuilder::default()
            .frequency(self.frequency.into())
            .blocklist(&NOT_WALKED)
            .build()?;
        sleep(duration);
        let report = sampling.report().build()?;
        drop(sampling);
        let period = 1_000_000_000 / i64::from(self.frequency.max(1));
        let mut profile =
            Encoder::new(&[("samples", "count"), ("cpu", "nanoseconds")], ("cpu", "nanoseconds"), period);
        for (frames, &count) in &report.data {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            profile.sample(&stack(frames), &[count, count.saturating_mul(period)], Some(&frames.thread_name));
        }
        Ok(profile.finish(started, duration))
    }
}

/// The innermost first; what was inlined into a frame stands before it.
fn stack(frames: &Frames) -> Vec<Frame> {
    let symbols = frames.frames.iter().flatten();
    symbols
        .map(|symbol| Frame {
            function: symbol.name(),
            file: symbol.filename().into_owned(),
            line: symbol.lineno(),
        })
        .collect()
}
