//! `/refusals`: what was refused or failed lately, at this node's pods.

use std::time::SystemTime;

use serde::Serialize;
use telemetry::RecentRefusal;

use super::{
    super::{Admin, Answer, request::Request},
    parties::{Ends, direction, name, name_and_port},
};
use crate::table::{Row, span};

pub(in crate::admin) const PARAMETERS: &[&str] =
    &["namespace", "name", "node", "reason", "policy", "limit", "offset"];

#[derive(Serialize)]
#[serde(transparent)]
struct RefusalView(RecentRefusal);

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let mut refusals = admin.ledgers.refusals().list(SystemTime::now());
    refusals.retain(|refusal| {
        let RecentRefusal { local, source, destination, service, .. } = refusal;
        Ends { local, source, destination, service: service.as_deref() }.are_wanted(request)
            && request.matches(&[
                ("reason", &|reason| refusal.reason == reason),
                ("policy", &|policy| refusal.policy.as_deref() == Some(policy)),
            ])
    });
    Answer::list(request, refusals, |refusal| RefusalView(refusal.clone()))
}

pub(super) fn seconds_ago(unix_seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{} ago", span(now.saturating_sub(unix_seconds)))
}

impl Row for RefusalView {
    const HEADER: &'static [&'static str] =
        &["LAST SEEN", "COUNT", "DIRECTION", "FROM", "TO", "REASON", "POLICY", "WHY"];

    fn cells(&self) -> Vec<String> {
        let refusal = &self.0;
        vec![
            seconds_ago(refusal.last_seen),
            refusal.count.to_string(),
            direction(refusal.role).to_owned(),
            name(&refusal.source, refusal.client),
            name_and_port(&refusal.destination, refusal.destination_address),
            refusal.reason.to_owned(),
            refusal.policy.clone().unwrap_or_default(),
            refusal.error.clone(),
        ]
    }
}
