//! How many lines there may be of what went wrong, which is told in full as long as it is not a flood.
//!
//! Whoever has proven who it is has a budget for each pod that it talks to; those who have not share one, as addresses are
//! for the taking. Beyond it lines are counted, and the number is written when the interval is over. The metrics and the
//! book of refusals miss nothing.

use std::time::{Duration, Instant};

use model::WorkloadUid;
use tracing::{Level, event};

use super::TARGET;
use crate::{
    account::{Account, Source},
    metrics::access_lines_suppressed,
    windows::{Admission, Windows},
};

/// Who has a budget of its own; more share one for each pod.
const MAX_SPENDERS: usize = 4096;

/// The budget of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorLines {
    pub lines: u64,
    pub interval: Duration,
}

#[derive(Debug)]
pub(crate) struct ErrorBudget(Windows<Spender>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Spender {
    local: WorkloadUid,
    source: Option<Source>,
}

impl Default for ErrorLines {
    fn default() -> Self {
        Self { lines: 1000, interval: Duration::from_secs(10) }
    }
}

impl Default for ErrorBudget {
    fn default() -> Self {
        Self::new(ErrorLines::default())
    }
}

impl ErrorBudget {
    pub(crate) fn new(ErrorLines { lines, interval }: ErrorLines) -> Self {
        Self(Windows::new(lines, interval))
    }

    /// Whether the line is to be written.
    pub(crate) fn admits(&self, account: &Account, now: Instant) -> bool {
        let source = Some(account.source(&account.facts.lock()));
        let source = source.filter(|source| !matches!(source, Source::Address(_)));
        let mut spender = Spender { local: account.local.clone(), source };
        if self.0.is_full_for(&spender, MAX_SPENDERS) {
            spender.source = None;
        }
        match self.0.admit(spender.clone(), now) {
            Admission::Write { suppressed } => {
                tell(&spender, suppressed);
                true
            }
            Admission::Suppress => {
                access_lines_suppressed();
                false
            }
        }
    }

    /// Of floods that have passed.
    pub(crate) fn summarize(&self, now: Instant) {
        for (spender, suppressed) in self.0.take_finished(now) {
            tell(&spender, suppressed);
        }
    }
}

fn tell(Spender { local, source }: &Spender, suppressed: u64) {
    if suppressed > 0 {
        let source = source.as_ref().map_or_else(|| "without an identity".to_owned(), ToString::to_string);
        event!(
            target: TARGET,
            Level::WARN,
            pod = local.as_str(),
            source = source.as_str(),
            suppressed,
            "more connections that failed"
        );
    }
}
