//! The daemon's log, on standard output: one line an event, plain or JSON.
//!
//! Lines are written by a thread of their own. If whoever reads them stalls, lines are dropped and counted; connections
//! never wait for the log. What is logged can be changed while the daemon runs.

mod levels;
mod writer;

use std::time::Duration;

use anyhow::Context;
use metrics::{counter, describe_counter};
use tracing::Subscriber;
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

pub(crate) use self::levels::Levels;
use self::writer::Lines;
use crate::config::{Config, LogFormat};

/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(2);
const DROPPED: &str = "ztunnel_log_lines_dropped_total";

/// The log, for as long as this lives; dropping it writes what still waits, if somebody reads it soon.
pub(crate) struct Log {
    writer: Lines,
    pub(crate) dropped: DroppedLines,
    pub(crate) levels: Levels,
}

#[derive(Clone)]
pub(crate) struct DroppedLines(Lines);

pub(crate) fn start(config: &Config) -> anyhow::Result<Log> {
    let filter = levels::filter(&config.log_level)
        .with_context(|| format!("logLevel: `{}` is not a filter", config.log_level))?;
    let (filter, handle) = reload::Layer::new(filter);
    let levels = Levels::new(config.log_level.clone(), handle);
    let output = Lines::start(config.limits.waiting_log_lines).context("starting the thread of the log")?;
    let writer = output.clone();
    let access = lines(config.access_log.format.unwrap_or(config.log_format), output.clone());
    let is_access = filter_fn(|event| event.target() == telemetry::ACCESS_LOG_TARGET);
    let others = lines(config.log_format, output).with_filter(is_access.clone().not());
    tracing_subscriber::registry()
        .with(filter)
        .with(access.with_filter(is_access))
        .with(others)
        .try_init()
        .context("starting the log")?;
    let dropped = DroppedLines(writer.clone());
    Ok(Log { writer, dropped, levels })
}

fn lines<S>(format: LogFormat, output: Lines) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer().with_ansi(false).with_writer(output);
    match format {
        LogFormat::Plain => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.writer.finish(LAST_LINES);
    }
}

impl DroppedLines {
    pub(crate) fn describe() {
        describe_counter!(DROPPED, "Log lines that were not written, since standard output was not read.");
    }

    /// For a scrape.
    pub(crate) fn record(&self) {
        counter!(DROPPED).absolute(self.0.dropped());
    }
}
