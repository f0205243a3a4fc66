//! AuthorizationPolicies. What is not enforced here never makes access wider: an ALLOW rule with it matches nothing, a DENY
//! rule keeps the rest.

use kubernetes::policies::{self, AuthorizationPolicySpec, Condition, Operation, Source, Unknown};
use proto::security::{Action, Authorization, Clause, Match, Rule, Scope};
use serde_json::Value;

use super::{
    Cluster,
    matches::{addresses, ports, service_accounts, strings},
};
use crate::facts::{Labels, Policy, Spec};

/// What has become of a policy, for its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Why no part of it is enforced.
    pub(crate) ignored: Option<String>,
    /// Of layer 7: accepted, and not enforced.
    pub(crate) unenforced: Vec<String>,
    /// Cannot be read.
    pub(crate) wrong: Vec<String>,
}

/// A policy without a resource says nothing to daemons.
pub(crate) fn authorization(cluster: &Cluster, policy: &Policy) -> (Option<Authorization>, Verdict) {
    let mut verdict = Verdict::default();
    let made = match &policy.spec {
        Spec::Authorization(spec) => of_spec(cluster, policy, spec, &mut verdict),
        Spec::Unreadable { problem, raw } => {
            verdict.wrong.push(problem.clone());
            Some(stand_in(cluster, policy, raw))
        }
        Spec::PeerAuthentication(_) => None,
    };
    (made, verdict)
}

fn of_spec(
    cluster: &Cluster,
    policy: &Policy,
    spec: &AuthorizationPolicySpec,
    verdict: &mut Verdict,
) -> Option<Authorization> {
    let action = match served(spec) {
        Ok(action) => action,
        Err(why) => {
            verdict.ignored = Some(why);
            return None;
        }
    };
    let has_selector = selector(policy).is_some();
    let mut conversion = Conversion { action, namespace: &policy.key.0, verdict };
    // A selector that says more than is understood takes too many workloads; only for what denies is that the safe side.
    let unknown_selector = spec.selector.as_ref().map(|selector| &selector.unknown);
    let is_unknown = conversion.is_unknown(&spec.unknown)
        | unknown_selector.is_some_and(|unknown| conversion.is_unknown(unknown));
    let rules = match (is_unknown, action) {
        (true, Action::Allow) => Vec::new(),
        _ => spec.rules.iter().filter_map(|rule| conversion.rule(rule)).collect(),
    };
    Some(resource(cluster, policy, has_selector, action, rules))
}

/// What it does, if anything at layer 4.
fn served(spec: &AuthorizationPolicySpec) -> Result<Action, String> {
    if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
        return Err(
            "policies with targetRefs are for gateways and waypoints, which are not served".to_owned()
        );
    }
    match spec.action {
        policies::Action::Allow => Ok(Action::Allow),
        policies::Action::Deny => Ok(Action::Deny),
        other @ (policies::Action::Audit | policies::Action::Custom) => {
            Err(format!("action {other:?} is not enforced at layer 4"))
        }
    }
}

/// The labels of the workloads that name this policy: of one for selected workloads only, and of which there is a resource,
/// since a name without one refuses everybody.
pub(crate) fn selector(policy: &Policy) -> Option<Labels> {
    let labels = match &policy.spec {
        Spec::Authorization(spec) => {
            served(spec).ok()?;
            spec.selector.as_ref()?.match_labels.clone()
        }
        // What cannot be read is for all.
        Spec::Unreadable { raw, .. } => {
            serde_json::from_value(raw.pointer("/selector/matchLabels")?.clone()).ok()?
        }
        Spec::PeerAuthentication(_) => return None,
    };
    (!labels.is_empty()).then_some(labels)
}

fn resource(
    cluster: &Cluster,
    policy: &Policy,
    has_selector: bool,
    action: Action,
    rules: Vec<Rule>,
) -> Authorization {
    let (namespace, name) = policy.key.clone();
    let scope = match has_selector {
        true => Scope::WorkloadSelector,
        false if namespace == cluster.root_namespace => Scope::Global,
        false => Scope::Namespace,
    };
    let dry_run = policy.dry_run;
    Authorization {
        name,
        namespace,
        scope: scope.into(),
        action: action.into(),
        rules,
        dry_run,
        extensions: vec![],
    }
}

/// Denies all that the policy might be about.
fn stand_in(cluster: &Cluster, policy: &Policy, raw: &Value) -> Authorization {
    let has_selector = selector(policy).is_some();
    match raw["action"].as_str() {
        Some("DENY") => resource(cluster, policy, has_selector, Action::Deny, vec![Rule::default()]),
        _ => resource(cluster, policy, has_selector, Action::Allow, Vec::new()),
    }
}

/// A rule that has nothing left but what cannot be enforced.
struct Unenforced;

struct Conversion<'a> {
    action: Action,
    namespace: &'a str,
    verdict: &'a mut Verdict,
}

impl Conversion<'_> {
    /// Nothing, if it may match nothing.
    fn rule(&mut self, rule: &policies::Rule) -> Option<Rule> {
        self.clauses(rule).ok().map(|clauses| Rule { clauses })
    }

    fn clauses(&mut self, rule: &policies::Rule) -> Result<Vec<Clause>, Unenforced> {
        let unknown = self.is_unknown(&rule.unknown);
        self.unless(unknown)?;
        let mut clauses = Vec::new();
        let to: Result<Vec<_>, _> =
            rule.to.iter().map(|to| self.operation(&to.operation, &to.unknown)).collect();
        let from: Result<Vec<_>, _> =
            rule.from.iter().map(|from| self.source(&from.source, &from.unknown)).collect();
        // All of them are looked at, so that the status names all that is wrong.
        let when: Result<Vec<_>, _> = rule.when.iter().map(|condition| self.condition(condition)).collect();
        for matches in [to?, from?].into_iter().chain(when?) {
            clauses.extend(self.any_of(matches)?);
        }
        Ok(clauses)
    }

    /// A match without a field matches nothing on the wire. One that denies has lost its fields, or never had any: then the
    /// clause does not narrow the rule. One that allows never had any, and lets nobody in.
    fn any_of(&mut self, mut matches: Vec<Match>) -> Result<Option<Clause>, Unenforced> {
        let is_empty = |one: &Match| *one == Match::default();
        if matches.iter().any(is_empty) {
            if self.action == Action::Deny {
                return Ok(None);
            }
            self.verdict
                .wrong
                .push("a source, operation or condition that names nothing allows nobody".to_owned());
            matches.retain(|one| !is_empty(one));
            self.unless(matches.is_empty())?;
        }
        Ok((!matches.is_empty()).then_some(Clause { matches }))
    }

    fn operation(&mut self, operation: &Operation, unknown: &Unknown) -> Result<Match, Unenforced> {
        let Operation { hosts, not_hosts, methods, not_methods, paths, not_paths, .. } = operation;
        let layer_7 = [
            ("hosts", hosts),
            ("notHosts", not_hosts),
            ("methods", methods),
            ("notMethods", not_methods),
            ("paths", paths),
            ("notPaths", not_paths),
        ];
        let unenforced =
            self.has_layer_7(&layer_7) | self.is_unknown(&operation.unknown) | self.is_unknown(unknown);
        self.unless(unenforced)?;
        Ok(Match {
            destination_ports: self.read(ports(&operation.ports))?,
            not_destination_ports: self.read(ports(&operation.not_ports))?,
            ..Match::default()
        })
    }

    fn source(&mut self, source: &Source, unknown: &Unknown) -> Result<Match, Unenforced> {
        let layer_7 = [
            ("remoteIpBlocks", &source.remote_ip_blocks),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
        ];
        let unenforced =
            self.has_layer_7(&layer_7) | self.is_unknown(&source.unknown) | self.is_unknown(unknown);
        self.unless(unenforced)?;
        Ok(Match {
            principals: strings(&source.principals),
            not_principals: strings(&source.not_principals),
            namespaces: strings(&source.namespaces),
            not_namespaces: strings(&source.not_namespaces),
            service_accounts: self.read(service_accounts(&source.service_accounts, self.namespace))?,
            not_service_accounts: self
                .read(service_accounts(&source.not_service_accounts, self.namespace))?,
            source_ips: self.read(addresses(&source.ip_blocks))?,
            not_source_ips: self.read(addresses(&source.not_ip_blocks))?,
            ..Match::default()
        })
    }

    /// Clauses' matches: of values and of what must not be. Both have to hold, so they are one.
    fn condition(&mut self, condition: &Condition) -> Result<Vec<Match>, Unenforced> {
        let unknown = self.is_unknown(&condition.unknown);
        self.unless(unknown)?;
        let Condition { key, values, not_values, .. } = condition;
        let one = match key.as_str() {
            "source.ip" => Match {
                source_ips: self.read(addresses(values))?,
                not_source_ips: self.read(addresses(not_values))?,
                ..Match::default()
            },
            "source.namespace" => {
                Match { namespaces: strings(values), not_namespaces: strings(not_values), ..Match::default() }
            }
            "source.principal" => {
                Match { principals: strings(values), not_principals: strings(not_values), ..Match::default() }
            }
            "source.serviceAccount" => Match {
                service_accounts: self.read(service_accounts(values, self.namespace))?,
                not_service_accounts: self.read(service_accounts(not_values, self.namespace))?,
                ..Match::default()
            },
            "destination.ip" => Match {
                destination_ips: self.read(addresses(values))?,
                not_destination_ips: self.read(addresses(not_values))?,
                ..Match::default()
            },
            "destination.port" => Match {
                destination_ports: self.read(ports(values))?,
                not_destination_ports: self.read(ports(not_values))?,
                ..Match::default()
            },
            _ => {
                self.verdict.unenforced.push(format!("condition {key} is of layer 7"));
                self.unless(true)?;
                Match::default()
            }
        };
        Ok(vec![one])
    }

    /// An error for a rule that allows: what is left would match more. One that denies may go on.
    fn unless(&self, unenforced: bool) -> Result<(), Unenforced> {
        if unenforced && self.action == Action::Allow { Err(Unenforced) } else { Ok(()) }
    }

    /// What a DENY rule loses this way makes it match more.
    fn read<T>(&mut self, values: Result<Vec<T>, String>) -> Result<Vec<T>, Unenforced> {
        match values {
            Ok(values) => Ok(values),
            Err(problem) => {
                self.verdict.wrong.push(problem);
                self.unless(true)?;
                Ok(Vec::new())
            }
        }
    }

    fn has_layer_7(&mut self, fields: &[(&str, &Vec<String>)]) -> bool {
        let given: Vec<&str> =
            fields.iter().filter(|(_, values)| !values.is_empty()).map(|(name, _)| *name).collect();
        self.verdict.unenforced.extend(given.iter().map(|name| format!("{name} is of layer 7")));
        !given.is_empty()
    }

    fn is_unknown(&mut self, unknown: &Unknown) -> bool {
        self.verdict.wrong.extend(unknown.keys().map(|name| format!("field {name} is not known")));
        !unknown.is_empty()
    }
}
