//! A policy as decisions read it: simplified once, when it enters the state.
//!
//! What is not enforced here, or not understood, is taken out such that access never widens. An ALLOW rule with such a part matches
//! nothing. Of a DENY rule what is understood stays; a match of which nothing stays holds always, as it would
//! have for some request.

use std::sync::Arc;

use super::{Action, Attributes, Match, Policy, PolicyKey, ServiceAccountMatch, StringMatch};
use crate::SpiffeId;

#[derive(Debug, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) key: PolicyKey,
    pub(crate) policy: Arc<Policy>,
    pub(crate) rules: Vec<Rule>,
}

/// Clauses, all of which must hold; without any it holds always. In a clause, one of the matches must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(super) clauses: Vec<Vec<Match>>,
}

impl Compiled {
    pub(crate) fn new(policy: Policy) -> Self {
        let in_doubt = policy.extensions.is_given() || !policy.not_understood.is_empty();
        let never = policy.action == Action::Allow && in_doubt;
        let rules = policy.rules.iter().filter(|_| !never).filter_map(|rule| Rule::new(rule, policy.action));
        let mut rules: Vec<_> = rules.collect();
        // What is not understood may have been meant for its rules.
        if policy.action == Action::Deny && policy.rules.is_empty() && !policy.not_understood.is_empty() {
            rules.push(Rule { clauses: Vec::new() });
        }
        Self { key: policy.key(), rules, policy: Arc::new(policy) }
    }

    pub(crate) fn matches(&self, attributes: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| rule.holds(attributes))
    }
}

impl Rule {
    /// `None` if it can never hold.
    fn new(clauses: &[Vec<Match>], action: Action) -> Option<Self> {
        let in_doubt = clauses.iter().flatten().any(|m| m.unenforced().next().is_some());
        if in_doubt && action == Action::Allow {
            return None;
        }
        let clauses: Option<Vec<Option<Vec<Match>>>> = clauses.iter().map(|clause| reduced(clause)).collect();
        Some(Self { clauses: clauses?.into_iter().flatten().collect() })
    }

    pub(crate) fn holds(&self, attributes: &Attributes<'_>) -> bool {
        self.clauses.iter().all(|matches| matches.iter().any(|m| m.holds(attributes)))
    }
}

/// `None`: the clause can never hold. `Some(None)`: it always does.
fn reduced(clause: &[Match]) -> Option<Option<Vec<Match>>> {
    if clause.is_empty() {
        return Some(None);
    }
    let mut matches = Vec::with_capacity(clause.len());
    for m in clause {
        match m.layer_4() {
            unset if unset == Match::default() => {
                if m.unenforced().next().is_some() {
                    return Some(None);
                }
            }
            known => matches.push(spelled_as_compared(known)),
        }
    }
    (!matches.is_empty()).then_some(Some(matches))
}

/// Principals compare without `spiffe://`, whether or not the policy's author wrote it: a DENY that spells it out
/// must not let everybody pass.
fn spelled_as_compared(mut m: Match) -> Match {
    let bare = |text: &mut String| {
        if let Some(rest) = text.strip_prefix("spiffe://") {
            *text = rest.to_owned();
        }
    };
    for principal in m.principals.iter_mut().chain(&mut m.not_principals) {
        match principal {
            StringMatch::Exact(text) | StringMatch::Prefix(text) => bare(text),
            StringMatch::Suffix(_) | StringMatch::Presence => {}
        }
    }
    m
}

impl Match {
    fn holds(&self, a: &Attributes<'_>) -> bool {
        let namespace = a.peer.map(SpiffeId::namespace);
        let principal = |m: &StringMatch| a.principals().any(|principal| m.holds(Some(principal)));
        let account = |m: &ServiceAccountMatch| {
            a.peer.is_some_and(|p| p.namespace() == m.namespace && p.service_account() == m.service_account)
        };
        field(&self.namespaces, &self.not_namespaces, |m| m.holds(namespace))
            && field(&self.service_accounts, &self.not_service_accounts, account)
            && field(&self.principals, &self.not_principals, principal)
            && field(&self.source_ips, &self.not_source_ips, |net| net.contains(&a.source_ip))
            && field(&self.destination_ips, &self.not_destination_ips, |net| net.contains(&a.destination_ip))
            && field(&self.destination_ports, &self.not_destination_ports, |&p| p == a.destination_port)
    }
}

/// A field holds if any of its values does, and none of the negated ones.
fn field<T>(values: &[T], not_values: &[T], holds: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&holds)) && !not_values.iter().any(&holds)
}
