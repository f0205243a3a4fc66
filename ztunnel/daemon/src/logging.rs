//! The daemon's log, on standard output: one line an event, plain or JSON.

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Config, LogFormat};

pub(crate) fn start(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("logLevel: `{}` is not a filter", config.log_level))?;
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Plain => registry.with(fmt::layer().with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true)).try_init(),
    }
    .context("starting the log")
}
