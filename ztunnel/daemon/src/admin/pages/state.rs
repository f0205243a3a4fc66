//! `/state`: where the mesh comes from, and the watched files. `/verdicts`: what the kernel side decided.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::super::{Admin, Answer, request::Request};
use crate::table::aligned;

pub(in crate::admin) fn files(admin: &Admin, _: &Request) -> Answer {
    Answer::json(&watched(admin))
}

pub(super) fn watched(admin: &Admin) -> Value {
    json!({
        "state": admin.state.json(),
        "pods": admin.pods,
        "revocationLists": admin.revocation.statuses(),
        "certificates": admin.authority.files(),
    })
}

pub(in crate::admin) fn verdicts(admin: &Admin, request: &Request) -> Answer {
    let counts = counts(admin);
    if !request.text {
        return Answer::json(&counts);
    }
    let mut lines = vec![vec!["VERDICT".to_owned(), "COUNT".to_owned()]];
    lines.extend(counts.iter().map(|(verdict, count)| vec![(*verdict).to_owned(), count.to_string()]));
    Answer::text(StatusCode::OK, aligned(&lines))
}

pub(super) fn counts(admin: &Admin) -> BTreeMap<&'static str, u64> {
    admin.node.parts.redirector.verdicts().into_iter().collect()
}
