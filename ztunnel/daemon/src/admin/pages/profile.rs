//! `/debug/pprof/`: where processor time goes, and memory.

use hyper::{Method, StatusCode};
use redirect::heap;
use serde_json::json;

use super::super::{Admin, Answer, request::Request};
use crate::profile::{CpuProfile, ProfileError, heap_profile};

pub(in crate::admin) const PARAMETERS: &[&str] = &["seconds", "frequency"];

const PPROF: &str = "application/octet-stream";
const DEFAULT_SECONDS: u16 = 10;
const MAX_SECONDS: u16 = 60;
const DEFAULT_FREQUENCY: u16 = 100;
const MAX_FREQUENCY: u16 = 1000;

pub(in crate::admin) fn cpu(_: &Admin, request: &Request) -> Answer {
    let taken = within(request, "seconds", DEFAULT_SECONDS, MAX_SECONDS).and_then(|seconds| {
        let frequency = within(request, "frequency", DEFAULT_FREQUENCY, MAX_FREQUENCY)?;
        CpuProfile { seconds, frequency }.take().map_err(|error| failed(&error))
    });
    match taken {
        Ok(profile) => Answer::new(StatusCode::OK, PPROF, profile),
        Err(answer) => answer,
    }
}

/// Memory is not sampled unless somebody asked for it.
pub(in crate::admin) fn heap(_: &Admin, _: &Request) -> Answer {
    if heap::is_on() {
        return Answer::new(StatusCode::OK, PPROF, heap_profile());
    }
    let cure = "memory is not sampled now: POST /debug/pprof/heap/profiling?activate=true over this socket; what is \
                allocated from then on is seen\n";
    Answer::text(StatusCode::NOT_IMPLEMENTED, cure)
}

pub(in crate::admin) fn heap_switch(_: &Admin, request: &Request) -> Answer {
    if request.method == Method::POST {
        match request.parameter("activate") {
            Some("true") => heap::switch(true),
            Some("false") => heap::switch(false),
            _ => return Answer::bad_request("expected ?activate=true or ?activate=false\n"),
        }
        tracing::info!(on = heap::is_on(), "sampling of memory was switched");
    }
    Answer::json(&json!({ "active": heap::is_on(), "intervalBytes": heap::INTERVAL }))
}

fn within(request: &Request, name: &str, default: u16, most: u16) -> Result<u16, Answer> {
    let given = request.number(name)?.unwrap_or(default.into());
    let number = u16::try_from(given).ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| Answer::bad_request(&format!("{name}: expected 1 to {most}, found {given}\n")))
}

fn failed(error: &ProfileError) -> Answer {
    let status = match error {
        ProfileError::Running => StatusCode::TOO_MANY_REQUESTS,
        ProfileError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Answer::text(status, format!("{error}\n"))
}
