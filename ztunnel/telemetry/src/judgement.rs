//! What policy says of a connection, and would say if all that is only audited were in force.

use std::sync::Arc;

use metrics::{Counter, counter};
use model::{
    authorize::{Audit, Verdict},
    policy::PolicyKey,
};
use serde::Serialize;

use crate::{account::Account, cache::Cache, metrics::names};

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

/// One counter for each combination that occurs, so that its labels are formatted once.
#[derive(Debug, Default)]
pub(crate) struct Decisions(Cache<(Decision, Option<Decision>), Counter>);

const NONE: &str = "-";

impl Decisions {
    pub(crate) fn sweep(&self) {
        self.0.sweep();
    }

    fn count(&self, verdict: &Verdict) {
        let enforced = match &verdict.decision {
            Ok(allowed) => ("allowed", allowed.by.clone()),
            Err(refusal) => (refusal.reason(), refusal.policy().cloned()),
        };
        let audit = verdict.audit.as_ref().map(|audit| (audit.reason(), audit.policy().cloned()));
        let labels = (enforced.clone(), audit.clone());
        self.0.get_or(labels, || counter_of(&enforced, audit.as_ref())).increment(1);
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
