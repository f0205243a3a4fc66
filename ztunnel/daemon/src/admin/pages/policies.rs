//! `/policies`: as they were given.

use std::sync::Arc;

use model::policy::{Action, Policy, Scope};
use serde::Serialize;

use super::super::{Admin, Answer, request::Request};
use crate::table::Row;

pub(in crate::admin) const PARAMETERS: &[&str] = &["namespace", "name", "limit", "offset"];

#[derive(Serialize)]
#[serde(transparent)]
struct PolicyView(Arc<Policy>);

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let snapshot = admin.snapshot.load();
    let wanted = |policy: &&Arc<Policy>| {
        request.matches(&[
            ("namespace", &|namespace| policy.namespace == namespace),
            ("name", &|name| policy.name.contains(name)),
        ])
    };
    let policies: Vec<_> = snapshot.policies().filter(wanted).cloned().collect();
    Answer::list(request, policies, |policy| PolicyView(Arc::clone(policy)))
}

impl Row for PolicyView {
    const HEADER: &'static [&'static str] = &["NAMESPACE", "NAME", "ACTION", "SCOPE", "RULES", "NOTE"];

    fn cells(&self) -> Vec<String> {
        let policy = &*self.0;
        let action = match policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
        };
        let scope = match policy.scope {
            Scope::Global => "mesh",
            Scope::Namespace => "namespace",
            Scope::WorkloadSelector => "workloads that name it",
        };
        let mut notes = Vec::new();
        if policy.dry_run {
            notes.push("dry run".to_owned());
        }
        let unenforced = policy.unenforced();
        if !unenforced.is_empty() {
            notes.push(format!("not enforced: {}", unenforced.join(", ")));
        }
        vec![
            policy.namespace.clone(),
            policy.name.clone(),
            action.to_owned(),
            scope.to_owned(),
            policy.rules.len().to_string(),
            notes.join("; "),
        ]
    }
}
