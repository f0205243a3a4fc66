//! `/logging`: what is logged, and its change. The first words of each answer are those that Istio's tools know.

use hyper::{Method, StatusCode};
use serde_json::json;

use super::super::{Admin, Answer, request::Request};

pub(in crate::admin) const PARAMETERS: &[&str] = &["level", "reset"];

const USAGE: &str = "
POST /logging?level=LEVEL                     sets the level of all, and drops all modules' own
POST /logging?level=MODULE=LEVEL[,...]        sets modules' levels (also MODULE:LEVEL), and leaves the others
POST /logging?level=MODULE=LEVEL,LEVEL        sets both, and drops all other modules' own
POST /logging?reset                           as configured

LEVEL: error, warn, info, debug, trace, off
MODULE: access (one line for each connection), ztunnel, ztunnel_proxy, ztunnel_tunnel, ztunnel_control, ...
";

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    if request.method != Method::POST {
        let (level, configured) = (admin.levels.current(), admin.levels.configured());
        return match request.text {
            true => current(admin),
            false => Answer::json(&json!({ "level": level, "configured": configured })),
        };
    }
    let reset = request.parameter("reset").is_some();
    match admin.levels.change(reset, request.parameter("level").unwrap_or_default()) {
        Ok(()) => current(admin),
        Err(wrong) => Answer::bad_request(&format!("Invalid level provided: {wrong}\n{USAGE}")),
    }
}

fn current(admin: &Admin) -> Answer {
    Answer::text(StatusCode::OK, format!("current log level is {}\n", admin.levels.current()))
}
