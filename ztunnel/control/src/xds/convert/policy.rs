//! Policies. What cannot be read of one never lets anybody in.
//!
//! A list with such a value says nothing that could be relied on: it is left out, and the match names it as
//! not understood, of which the model knows what to make: an ALLOW rule with it allows nothing, a DENY rule
//! denies without regard to it. Of a negated list, the values that can be read are exceptions from a denial that may stay.

use std::sync::Arc;

use ipnet::IpNet;
use model::policy::{Action, Match, Policy, PolicyKey, Scope, ServiceAccountMatch, StringMatch, Unenforced};
use proto::security::{self as wire, string_match::MatchType};

use super::{block, port};
use crate::sound;

/// The policy, and what is wrong with it.
pub(super) fn policy(told: wire::Authorization, root: Option<&str>) -> (Policy, Option<String>) {
    let mut flaws = Flaws::default();
    let action = wire::Action::try_from(told.action).ok();
    let scope = wire::Scope::try_from(told.scope).ok();
    flaws.unless(action.is_some(), || format!("unknown action {}", told.action));
    flaws.unless(scope.is_some(), || format!("unknown scope {}", told.scope));
    // To more workloads than it is meant for, an ALLOW would open them, and a DENY only closes them.
    let is_believed = action.is_some_and(|action| scope.is_some() || action == wire::Action::Deny);
    let rules = told.rules.into_iter().map(|rule| {
        let clauses = rule.clauses.into_iter();
        clauses.map(|clause| clause.matches.into_iter().map(|m| matching(&m, &mut flaws)).collect()).collect()
    });
    let policy = Policy {
        rules: if is_believed { rules.collect() } else { Vec::new() },
        scope: match scope {
            Some(wire::Scope::Global) => Scope::Global,
            Some(wire::Scope::WorkloadSelector) => Scope::WorkloadSelector,
            Some(wire::Scope::Namespace) => Scope::Namespace,
            None => widest(&told.namespace, root),
        },
        name: told.name,
        namespace: told.namespace,
        action: match action {
            Some(wire::Action::Deny) => Action::Deny,
            // Without rules: nobody is allowed by it.
            Some(wire::Action::Allow) | None => Action::Allow,
        },
        // Of a policy that may never have been one, nothing is believed that would take it out of force.
        dry_run: told.dry_run && action.is_some(),
        extensions: given(&told.extensions),
        not_understood: Vec::new(),
    };
    flaws.unless(sound::policy(&policy).is_ok(), || "its name or namespace is none".to_owned());
    (policy, flaws.0)
}

/// The widest that a policy of this namespace can apply. Those of the root namespace apply to all; if nobody has told us
/// which that is, it may be any.
fn widest(namespace: &str, root: Option<&str>) -> Scope {
    if root.is_some_and(|root| root != namespace && !namespace.is_empty()) {
        Scope::Namespace
    } else {
        Scope::Global
    }
}

/// Stands for one of which only the resource's name can be read: an ALLOW without rules.
pub(super) fn unreadable(name: &str, root: Option<&str>) -> Policy {
    let PolicyKey { namespace, name } = key(name);
    let (action, scope) = (Action::Allow, widest(&namespace, root));
    let extensions = Unenforced::default();
    let (namespace, name) = (namespace.as_ref().to_owned(), name.as_ref().to_owned());
    Policy {
        name,
        namespace,
        scope,
        action,
        rules: Vec::new(),
        dry_run: false,
        extensions,
        not_understood: Vec::new(),
    }
}

/// What is filed under the resource's name. One that is no policy's is of no namespace, and so may concern all.
pub(crate) fn key(name: &str) -> PolicyKey {
    name.parse().unwrap_or_else(|_| PolicyKey { namespace: Arc::default(), name: name.into() })
}

/// The first is told.
#[derive(Default)]
struct Flaws(Option<String>);

impl Flaws {
    fn unless(&mut self, fine: bool, flaw: impl FnOnce() -> String) {
        if !fine && self.0.is_none() {
            self.0 = Some(flaw());
        }
    }
}

fn matching(told: &wire::Match, flaws: &mut Flaws) -> Match {
    let mut not_understood = Vec::new();
    let mut read = Reader { flaws, not_understood: &mut not_understood };
    let m = Match {
        namespaces: read.all("namespaces", &told.namespaces, text),
        not_namespaces: read.each("notNamespaces", &told.not_namespaces, text),
        principals: read.all("principals", &told.principals, text),
        not_principals: read.each("notPrincipals", &told.not_principals, text),
        source_ips: read.all("sourceIps", &told.source_ips, range),
        not_source_ips: read.each("notSourceIps", &told.not_source_ips, range),
        destination_ips: read.all("destinationIps", &told.destination_ips, range),
        not_destination_ips: read.each("notDestinationIps", &told.not_destination_ips, range),
        destination_ports: read.all("destinationPorts", &told.destination_ports, |&number| port(number)),
        not_destination_ports: read
            .each("notDestinationPorts", &told.not_destination_ports, |&number| port(number)),
        service_accounts: read.all("serviceAccounts", &told.service_accounts, account),
        not_service_accounts: read.each("notServiceAccounts", &told.not_service_accounts, account),
        extensions: given(&told.extensions),
        ..Match::default()
    };
    Match { not_understood, ..m }
}

struct Reader<'a> {
    flaws: &'a mut Flaws,
    /// The fields that have such a value.
    not_understood: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// One that cannot be read could be the one that holds, so the rest says nothing without it.
    fn all<T, U>(&mut self, field: &str, told: &[T], read: fn(&T) -> Result<U, String>) -> Vec<U> {
        let count = told.len();
        let values = self.each(field, told, read);
        if values.len() == count { values } else { Vec::new() }
    }

    fn each<T, U>(&mut self, field: &str, told: &[T], read: fn(&T) -> Result<U, String>) -> Vec<U> {
        let mut values = Vec::with_capacity(told.len());
        for value in told {
            match read(value) {
                Ok(value) => values.push(value),
                Err(error) => {
                    if self.not_understood.last().is_none_or(|last| last != field) {
                        self.not_understood.push(field.to_owned());
                    }
                    self.flaws.unless(false, || format!("{field}: {error}"));
                }
            }
        }
        values
    }
}

fn text(told: &wire::StringMatch) -> Result<StringMatch, String> {
    Ok(match told.match_type.clone().ok_or("a comparison of a sort that is not known")? {
        MatchType::Exact(text) => StringMatch::Exact(text),
        MatchType::Prefix(text) => StringMatch::Prefix(text),
        MatchType::Suffix(text) => StringMatch::Suffix(text),
        MatchType::Presence(_) => StringMatch::Presence,
    })
}

fn range(told: &wire::Address) -> Result<IpNet, String> {
    block(&told.address, told.length)
}

fn account(told: &wire::ServiceAccountMatch) -> Result<ServiceAccountMatch, String> {
    Ok(ServiceAccountMatch {
        namespace: told.namespace.clone(),
        service_account: told.service_account.clone(),
    })
}

fn given(extensions: &[wire::Extension]) -> Unenforced {
    if extensions.is_empty() { Unenforced::default() } else { Unenforced::GIVEN }
}
