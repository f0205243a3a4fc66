//! One line per connection when it ends. Field names and levels are those of Istio's access log, so that what
//! reads the one reads the other; `path`, `reason`, `policy`, `audit` and `trace_id`
//! are ours.

mod choice;
mod errors;

use model::{Role, Workload};
use tracing::{Level, event};

use crate::{Outcome, Path, ResponseFlags, account::Account};

pub use choice::{AccessLog, AccessLogMode, Fraction, NotAFraction};
pub(crate) use errors::ErrorBudget;
pub use errors::ErrorLines;

/// What the lines carry as their target, for whoever writes the log.
pub const TARGET: &str = "access";

/// An error may quote a peer: a line stays a line.
const MAX_ERROR_CHARS: usize = 512;

pub(crate) fn write(account: &Account, outcome: &Outcome) {
    let understood = account.facts.lock().path != Path::Unresolved;
    match (outcome.flags(), understood) {
        (ResponseFlags::None, _) => write_at!(Level::INFO, "connection complete", account, outcome),
        (_, true) => write_at!(Level::ERROR, "connection complete", account, outcome),
        (_, false) => write_at!(Level::WARN, "connection failed", account, outcome),
    }
}

/// A macro, as each level is a call site of its own. Nothing in it is evaluated while the log is off.
macro_rules! write_at {
    ($level:expr, $message:literal, $account:ident, $outcome:ident) => {{
        if tracing::enabled!(target: TARGET, $level) {
            let facts = $account.facts.lock().clone();
            let line = Line::of($account, &facts.path);
            let (by, audit) = $account.judged.lock().clone().map_or((None, None), |judged| (judged.by, judged.audit));
            let (source, destination) = (facts.source.as_deref(), facts.destination.as_deref());
            let (source_identity, destination_identity) = facts.identities.as_ref().map(|(a, b)| (a.as_str(), b.as_str())).unzip();
            event!(
                target: TARGET,
                $level,
                src.addr = %$account.client.0,
                src.workload = text(source, |w| &w.name),
                src.namespace = text(source, |w| &w.namespace),
                src.identity = source_identity,
                src.cluster = text(source, |w| &w.cluster_id),
                dst.addr = %line.destination,
                dst.hbone_addr = line.hbone.map(display),
                dst.service = facts.service.as_deref().map(|service| &*service.hostname),
                dst.workload = text(destination, |w| &w.name),
                dst.namespace = text(destination, |w| &w.namespace),
                dst.identity = destination_identity,
                dst.cluster = text(destination, |w| &w.cluster_id),
                direction = line.direction,
                path = facts.path.as_str(),
                bytes_sent = line.sent,
                bytes_recv = line.received,
                duration = line.duration.as_str(),
                reason = $outcome.reason(),
                policy = $outcome.policy().or(by.map(|by| by.to_string())).as_deref(),
                audit = audit.as_ref().map(model::authorize::Audit::reason),
                audit_policy = audit.as_ref().and_then(|audit| audit.policy()).map(display),
                trace_id = $account.trace.get().map(display),
                error = $outcome.error().map(shortened).as_deref(),
                $message
            );
        }
    }};
}
use write_at;

struct Line {
    direction: &'static str,
    destination: std::net::SocketAddr,
    hbone: Option<std::net::SocketAddr>,
    /// As the local pod sees it: an inbound connection's answer is what it sent.
    sent: u64,
    received: u64,
    duration: String,
}

impl Line {
    fn of(account: &Account, path: &Path) -> Self {
        let (request, answer) = (account.counters.to_destination(), account.counters.to_source());
        let (direction, sent, received) = match account.role {
            Role::Outbound => ("outbound", request, answer),
            Role::InboundPlaintext | Role::InboundHbone => ("inbound", answer, request),
        };
        let (destination, hbone) = match *path {
            Path::Tunnel { gateway, target } => (gateway, Some(target)),
            Path::Direct { target } | Path::Passthrough { target } => (target, None),
            Path::Plaintext | Path::Unresolved => (account.destination.0, None),
        };
        let duration = format!("{}ms", account.opened.elapsed().as_millis());
        Self { direction, destination, hbone, sent, received, duration }
    }
}

fn text(workload: Option<&Workload>, field: fn(&Workload) -> &str) -> Option<&str> {
    workload.map(field).filter(|text| !text.is_empty())
}

pub(crate) fn shortened(mut error: String) -> String {
    if let Some((end, _)) = error.char_indices().nth(MAX_ERROR_CHARS) {
        error.truncate(end);
        error.push_str("...");
    }
    error
}
