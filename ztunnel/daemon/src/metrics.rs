//! The metrics endpoint: its thread, and what its page has beyond what is recorded.
//!
//! Whoever scrapes, however often, is served by a thread of its own: neither connections nor files, certificates and
//! enrolment wait for a page.

use std::{
    net::TcpListener,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use ::metrics::describe_gauge;
use anyhow::Context;
use bytes::Bytes;
use telemetry::{
    Ledgers,
    metrics::{Exporter, Page},
};
use tokio::{
    runtime::Builder,
    time::{interval, sleep},
};
use tunnel::TunnelLoad;

use crate::{
    admin::Admin, certificates, cni, discovery, files, logging::DroppedLines, node, plugin, state, status,
    verdicts,
};

const POOL_CONNECTIONS: &str = "ztunnel_pool_connections";
const TUNNEL_STREAMS: &str = "ztunnel_tunnel_streams";
const BUFFERED: &str = "ztunnel_buffered_bytes";

/// How often metrics are tended.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long handles of metrics may go unused before they are let go of.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

/// Says what each metric means that is the daemon's own.
pub(crate) fn describe() {
    verdicts::describe();
    DroppedLines::describe();
    files::describe();
    certificates::describe();
    cni::describe();
    node::describe();
    plugin::describe();
    discovery::describe();
    state::describe();
    status::describe();
    describe_gauge!(POOL_CONNECTIONS, "Outbound tunnel connections, those that are being made included.");
    describe_gauge!(TUNNEL_STREAMS, "Open streams of all tunnels, outbound and inbound.");
    describe_gauge!(
        BUFFERED,
        "Bytes received through tunnels and not yet handed on, as each stream's reader last saw it."
    );
}

/// What all who read a page share.
struct Text(Arc<String>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The page of now.
pub(crate) fn page(admin: &Admin) -> Bytes {
    Bytes::from_owner(Text(written(admin)))
}

fn written(admin: &Admin) -> Arc<String> {
    admin.exporter.scrape(|page| {
        admin.ledgers.flush();
        verdicts::record(admin.node.parts.redirector.verdicts());
        admin.dropped.record();
        admin.record_limits();
        admin.pods.record();
        let pods = admin.pods.file().map(|status| ("pods".to_owned(), status));
        let state = admin.state.file().map(|status| ("state".to_owned(), status));
        let files: Vec<_> = state.into_iter().chain(pods).chain(admin.authority.files()).collect();
        files.iter().for_each(|(file, status)| files::record(file, status));
        files::write_versions(page, &files);
        files::record_revocation(&admin.revocation.statuses());
        admin.state.write(page);
        status::write_connections(page, &admin.node.status());
        verdicts::write_older_connections(page, &admin.node.older_connections());
        certificates::write_lifetimes(page, &admin.certificates.statuses(), SystemTime::now());
        write_load(page, admin.tunnel.load());
    })
}

fn write_load(page: &mut Page<'_>, load: TunnelLoad) {
    let TunnelLoad { connections, streams, buffered, .. } = load;
    let gauges = [(POOL_CONNECTIONS, connections), (TUNNEL_STREAMS, streams), (BUFFERED, buffered)];
    for (name, count) in gauges {
        page.gauge(name, as_float(count));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are none")]
pub(crate) fn as_float(count: usize) -> f64 {
    count as f64
}

/// Runs `serve`, with this listener, on a thread of its own for as long as the process lives.
pub(crate) fn on_own_thread<F: Future<Output = ()>>(
    listener: TcpListener,
    (exporter, ledgers): (Exporter, Arc<Ledgers>),
    serve: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let work = move || {
        runtime.block_on(async move {
            tokio::spawn(tend(exporter, ledgers));
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => serve(listener).await,
                Err(error) => tracing::error!(%error, "metrics are not served"),
            }
        });
    };
    thread::Builder::new().name("metrics".to_owned()).spawn(work).map(drop).context("starting a thread")
}

async fn tend(exporter: Exporter, ledgers: Arc<Ledgers>) {
    let mut sweeps = interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = sleep(UPKEEP_INTERVAL) => {
                exporter.upkeep();
                ledgers.summarize();
            }
            _ = sweeps.tick() => ledgers.sweep(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ::metrics::with_local_recorder;

    /// The names in the first column of the specification's table of metrics.
    fn specified() -> BTreeSet<String> {
        let text = include_str!("../../../docs/SPECIFICATION.md");
        let (_, section) = text.split_once("\n## Endpoints and metrics\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
        rows.flat_map(|cell| cell.split('`')).filter_map(name).collect()
    }

    /// Of `name{label,label}`.
    fn name(word: &str) -> Option<String> {
        let name = word.split('{').next()?.trim();
        let is_name = name.contains('_') && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_name.then(|| name.to_owned())
    }

    /// Whoever builds an alert reads the table; what is not in it does not exist for them, and what is only there never
    /// fires. A metric that nobody described is found by `scenarios::metrics`.
    #[test]
    fn every_metric_stands_in_the_specification_and_the_other_way_round() {
        let (recorder, exporter) = telemetry::metrics::recorder();
        with_local_recorder(&recorder, || {
            telemetry::metrics::describe();
            super::describe();
        });
        let described: BTreeSet<String> = exporter.described().into_iter().collect();
        let specified = specified();
        let (missing, extra): (Vec<_>, Vec<_>) =
            (described.difference(&specified).collect(), specified.difference(&described).collect());
        assert!(
            missing.is_empty() && extra.is_empty(),
            "not in the table: {missing:?}; only there: {extra:?}"
        );
    }
}
