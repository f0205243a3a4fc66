//! `/plaintext`: who sends plaintext to whom.

use std::time::SystemTime;

use hyper::StatusCode;

use super::super::{Admin, Answer, request::Request};
use crate::plaintext::PlaintextList;

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let (book, now) = (admin.ledgers.plaintext(), SystemTime::now());
    let (accepted, forgotten) = (book.list(now), book.forgotten(now));
    let older = admin.node.older_connections();
    let list = PlaintextList::new(&admin.snapshot.load(), &accepted, forgotten, &older);
    if request.text { Answer::text(StatusCode::OK, list.text()) } else { Answer::json(&list) }
}
