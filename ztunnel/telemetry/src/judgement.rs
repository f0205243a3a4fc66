//! What policy says of a connection, and would say if all that is only audited were in force.

use std::{collections::HashMap, sync::Arc};

use metrics::{Counter, counter};
use model::{
    authorize::{Audit, Verdict},
    policy::PolicyKey,
};
use parking_lot::RwLock;
use serde::Serialize;

use crate::{account::Account, metrics::names};

/// Where the verdicts on one connection are noted, as often as it is judged.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub(crate) account: Arc<Account>,
    pub(crate) decisions: Arc<Decisions>,
}

/// The last verdict.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    /// The policy that allowed it.
    pub(crate) by: Option<PolicyKey>,
    pub(crate) audit: Option<Audit>,
}

impl Judgement {
    /// The first verdict is counted; a later one, after a change of state, takes its place in log and live list.
    pub fn note(&self, verdict: &Verdict) {
        let by = verdict.decision.as_ref().ok().and_then(|allowed| allowed.by.clone());
        let mut judged = self.account.judged.lock();
        if judged.is_none() {
            self.decisions.count(verdict);
        }
        *judged = Some(Judged { by, audit: verdict.audit.clone() });
    }
}

/// An audit as the admin endpoint shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LiveAudit {
    /// `allowed`, or the reason for which it would be refused.
    pub decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

impl LiveAudit {
    pub(crate) fn of(audit: &Audit) -> Self {
        Self { decision: audit.reason(), policy: audit.policy().map(ToString::to_string) }
    }
}

/// A word and the policy behind it.
type Decision = (&'static str, Option<PolicyKey>);

/// One counter for each combination that has occurred, so that its labels are formatted once.
#[derive(Debug, Default)]
pub(crate) struct Decisions(RwLock<HashMap<(Decision, Option<Decision>), Counter>>);

/// Beyond this many combinations the cache starts anew; the recorder keeps the counts.
const MAX_CACHED: usize = 4096;
const NONE: &str = "-";

impl Decisions {
    fn count(&self, verdict: &Verdict) {
        let enforced = match &verdict.decision {
            Ok(allowed) => ("allowed", allowed.by.clone()),
            Err(refusal) => (refusal.reason(), refusal.policy().cloned()),
        };
        let audit = verdict.audit.as_ref().map(|audit| (audit.reason(), audit.policy().cloned()));
        let key = (enforced, audit);
        if let Some(counter) = self.0.read().get(&key) {
            counter.increment(1);
            return;
        }
        let counter = counter_of(&key.0, key.1.as_ref());
        counter.increment(1);
        let mut cache = self.0.write();
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(key, counter);
    }
}

fn counter_of((decision, policy): &Decision, audit: Option<&Decision>) -> Counter {
    let name = |policy: &Option<PolicyKey>| policy.as_ref().map_or(NONE.to_owned(), ToString::to_string);
    let (audit, audit_policy) =
        audit.map_or((NONE, NONE.to_owned()), |(audit, policy)| (*audit, name(policy)));
    counter!(
        names::DECISIONS, "decision" => *decision, "policy" => name(policy),
        "audit" => audit, "audit_policy" => audit_policy
    )
}
