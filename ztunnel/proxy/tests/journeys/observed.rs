//! Access log and metrics of the test that runs on this thread.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use metrics::LocalRecorderGuard;
use telemetry::metrics::Exporter;
use tracing::subscriber::DefaultGuard;

pub(crate) struct Observed {
    log: Log,
    metrics: Exporter,
    _recorder: LocalRecorderGuard<'static>,
    _subscriber: DefaultGuard,
}

/// A test that fails shows what was logged.
impl Drop for Observed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.lines().join("\n"));
        }
    }
}

impl Observed {
    /// Tests run on one thread each, so what is local to the thread is local to the test.
    pub(crate) fn start() -> Self {
        let (recorder, metrics) = telemetry::metrics::recorder();
        let recorder = Box::leak(Box::new(recorder));
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Self {
            log,
            metrics,
            _recorder: metrics::set_default_local_recorder(recorder),
            _subscriber: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The first log line that has all of `parts`; waits for it.
    pub(crate) async fn line(&self, parts: &[&str]) -> String {
        eventually(&format!("a log line with {parts:?}"), || {
            self.lines().into_iter().find(|line| parts.iter().all(|part| line.contains(part)))
        })
        .await
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    /// The sum of the series of `name` whose labels have all of `parts`.
    pub(crate) fn metric(&self, name: &str, parts: &[&str]) -> u64 {
        let text = self.metrics.render(|_| {});
        let series = text.lines().filter(|line| line.starts_with(name));
        let wanted = series.filter(|line| parts.iter().all(|part| line.contains(part)));
        wanted.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }
}

/// Polls until `look` sees something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(seen) = look() {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came: {what}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
