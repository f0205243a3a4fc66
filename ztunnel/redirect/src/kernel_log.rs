//! What the programs say by aya-log, in the daemon's log.
//!
//! A pod can provoke these messages, so they are rationed: the kernel's ring is bounded, and so is what we write.
#![expect(unsafe_code, reason = "registering a descriptor with the runtime")]

use std::time::{Duration, Instant};

use aya::Ebpf;
use aya_log::EbpfLogger;
use parking_lot::Mutex;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use crate::RedirectError;

/// Messages written per [`INTERVAL`].
const RATION: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two readings of the ring.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the object's messages in a task of their own, for as long as what is answered lives.
pub(crate) fn follow(object: &mut Ebpf) -> Result<AbortOnDropHandle<()>, RedirectError> {
    let logger = EbpfLogger::init_with_logger(object, KernelLog::default())
        .map_err(|error| RedirectError::ebpf("the log ring", &error))?;
    // SAFETY: the logger owns its ring's descriptor and never changes it.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = registered
        .map_err(|error| RedirectError::InNamespace { what: "polling the log", source: error.into() })?;
    let following = tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
            // A pod can fill the ring as fast as it is read: so much at a time, and what does not fit is lost.
            sleep(PAUSE).await;
        }
    });
    Ok(AbortOnDropHandle::new(following))
}

#[derive(Default)]
struct KernelLog(Mutex<Ration>);

struct Ration {
    since: Instant,
    written: u32,
    suppressed: u64,
}

impl Default for Ration {
    fn default() -> Self {
        Self { since: Instant::now(), written: 0, suppressed: 0 }
    }
}

impl Ration {
    /// Whether one more may be written, and how many were not since the last that was.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= INTERVAL {
            (self.since, self.written) = (now, 0);
        }
        if self.written >= RATION {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl log::Log for KernelLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        let Some(suppressed) = self.0.lock().take(Instant::now()) else { return };
        let message = record.args();
        if record.level() <= log::Level::Warn {
            tracing::warn!(target: "ebpf", suppressed, "{message}");
        } else {
            tracing::info!(target: "ebpf", suppressed, "{message}");
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut ration = Ration::default();
        let start = ration.since;
        let written = (0..1000).filter(|_| ration.take(start).is_some()).count();
        assert_eq!(written, 20);
        assert_eq!(ration.take(start + INTERVAL), Some(980));
    }
}
