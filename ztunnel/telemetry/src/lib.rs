//! What the daemon tells about its connections.
//!
//! A connection opens a [`Ledger`] when it is accepted and closes it exactly once. From that one account come
//! the list of live connections, the access log line and Istio's metrics. What peers can trigger before
//! there is an account (refused handshakes) is counted by reason and logged at a bounded rate; so are the lines of one who
//! fails again and again.
#![forbid(unsafe_code)]

mod access_log;
mod account;
mod cache;
mod judgement;
mod ledger;
mod live;
pub mod metrics;
mod outcome;
mod plaintext;
mod rate_limit;
mod recorder;
mod refusals;
mod series;
#[cfg(test)]
mod tests;
mod trace;
mod windows;

pub use access_log::{
    AccessLog, AccessLogMode, ErrorLines, Fraction, NotAFraction, TARGET as ACCESS_LOG_TARGET,
};
pub use account::{ByteCounters, Path, Proof};
pub use judgement::{Judgement, LiveAudit};
pub use ledger::{Ledger, Ledgers};
pub use live::{LiveConnection, LiveHandle, LiveParty};
pub use outcome::{End, Outcome, ResponseFlags};
pub use plaintext::{OpenPlaintext, PlaintextBook, PlaintextPair};
pub use rate_limit::RateLimited;
pub use refusals::{RecentRefusal, RefusalBook, TunnelEnds};
pub use trace::TraceId;
pub use windows::Admission;
