//! What the policies and the default say together.

use std::sync::Arc;

use crate::{
    Refusal, Snapshot, Workload,
    policy::{
        Action, Attributes, PolicyKey,
        compiled::Compiled,
        index::{ByAction, RuleIndex},
    },
    settings::Regime,
};

/// Any DENY that matches denies; if any ALLOW is in force or nothing is allowed by default, one must match. Answers
/// with the ALLOW that matches, if any does.
pub(super) fn judge(
    regime: Regime,
    snapshot: &Snapshot,
    workload: &Workload,
    attributes: &Attributes<'_>,
) -> Result<Option<PolicyKey>, Refusal> {
    let indexes = || in_force(regime, snapshot, workload);
    let selected = || selected(regime, snapshot, workload);
    let matching = |index: fn(&ByAction) -> &RuleIndex, action| {
        let general = indexes().find_map(|set| index(set).matching(attributes));
        general.or_else(|| {
            let mut of_action = selected().flatten().filter(|policy| policy.policy.action == action);
            of_action.find(|policy| policy.matches(attributes)).map(|policy| &policy.key)
        })
    };
    if let Some(policy) = matching(|set| &set.deny, Action::Deny) {
        return Err(Refusal::DeniedByPolicy(policy.clone()));
    }
    if let Some(unknown) = selected().find_map(Result::err) {
        return Err(unknown);
    }
    if let Some(policy) = matching(|set| &set.allow, Action::Allow) {
        return Ok(Some(policy.clone()));
    }
    if indexes().any(|set| !set.allow.is_empty())
        || selected().flatten().any(|policy| policy.policy.action == Action::Allow)
    {
        return Err(Refusal::NotAllowed);
    }
    if snapshot.settings().default_deny(&workload.namespace, regime) {
        return Err(Refusal::DefaultDeny);
    }
    Ok(None)
}

/// Whether anything in force may refuse somebody at `workload`.
pub(super) fn is_restricted(snapshot: &Snapshot, workload: &Workload) -> bool {
    let regime = Regime::Enforced;
    in_force(regime, snapshot, workload).any(|set| !set.is_empty())
        || selected(regime, snapshot, workload).next().is_some()
        || snapshot.settings().default_deny(&workload.namespace, regime)
}

/// Whether anything that is not in force applies to `workload`.
pub(super) fn is_audited(snapshot: &Snapshot, workload: &Workload) -> bool {
    let dry_run = |key| snapshot.compiled(key).is_some_and(|policy| policy.policy.dry_run);
    snapshot.settings().audits(&workload.namespace)
        || snapshot.policies_for(&workload.namespace).any(|set| !set.of(true).is_empty())
        || workload.authorization_policies.iter().any(dry_run)
}

/// The policies of the mesh and of the workload's namespace.
fn in_force<'a>(
    regime: Regime,
    snapshot: &'a Snapshot,
    workload: &'a Workload,
) -> impl Iterator<Item = &'a ByAction> {
    let sets = snapshot.policies_for(&workload.namespace);
    sets.flat_map(move |set| {
        [Some(set.of(false)), (regime == Regime::Audited).then(|| set.of(true))].into_iter().flatten()
    })
}

/// The policies that the workload names. One that the state lacks may be a DENY: its absence refuses.
fn selected<'a>(
    regime: Regime,
    snapshot: &'a Snapshot,
    workload: &'a Workload,
) -> impl Iterator<Item = Result<&'a Arc<Compiled>, Refusal>> {
    let keys = workload.authorization_policies.iter();
    let policies = keys.map(|key| snapshot.compiled(key).ok_or_else(|| Refusal::UnknownPolicy(key.clone())));
    policies.filter(move |policy| {
        regime == Regime::Audited || !policy.as_ref().is_ok_and(|policy| policy.policy.dry_run)
    })
}
