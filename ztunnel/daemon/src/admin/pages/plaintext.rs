//! `/plaintext`: who sends plaintext to whom.

use std::time::SystemTime;

use hyper::StatusCode;

use super::super::{Admin, Answer, request::Request};
use crate::plaintext::PlaintextList;

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let accepted = admin.ledgers.plaintext().list(SystemTime::now());
    let list = PlaintextList::new(&admin.snapshot.load(), &accepted, &admin.node.older_connections());
    if request.text { Answer::text(StatusCode::OK, list.text()) } else { Answer::json(&list) }
}
