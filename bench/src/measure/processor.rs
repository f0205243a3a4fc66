//! The time that processes have spent on the processor: utime + stime of all their threads, in nanoseconds.
//!
//! What the kernel does for a socket runs in softirq, mostly at the end of the system call that caused it, and counts
//! as that process's. What ksoftirqd has to finish is counted by itself.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// Since the process began.
pub(crate) fn time_of(process: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(process)?))
        .with_context(|| format!("process {process} is gone"))?;
    Ok(clock_gettime(clock)?.into())
}

/// Of all of them, in seconds.
pub(crate) fn seconds_of(processes: &[u32]) -> Result<f64> {
    let mut sum = Duration::ZERO;
    for process in processes {
        sum += time_of(*process)?;
    }
    Ok(sum.as_secs_f64())
}

/// The kernel's threads that finish softirqs, one for each processor.
pub(crate) fn ksoftirqd() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if let (true, Ok(id)) = (name.starts_with("ksoftirqd/"), entry.file_name().to_string_lossy().parse())
        {
            found.push(id);
        }
    }
    Ok(found)
}
