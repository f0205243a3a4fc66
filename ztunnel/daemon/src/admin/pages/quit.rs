//! `/quitquitquit`: the end, as SIGTERM brings it.

use hyper::StatusCode;

use super::super::{Admin, Answer, request::Request};

pub(in crate::admin) fn page(admin: &Admin, _: &Request) -> Answer {
    tracing::info!("asked to end by the admin socket");
    admin.quit.cancel();
    Answer::text(StatusCode::OK, "shutdown now\n")
}
