//! Answers: JSON, and the Status objects that errors are.

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::StatusCode;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Response, body::Frame};
use serde_json::{Value, json};

use super::fault::Fault;

/// Breaks the connection when it is the body's next item.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
pub(super) struct Cut;

pub(super) type Body = UnsyncBoxBody<Bytes, Cut>;

pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let full = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    response(status, full.boxed_unsync())
}

pub(super) fn lines(lines: BoxStream<'static, Result<Bytes, Cut>>) -> Response<Body> {
    response(StatusCode::OK, StreamBody::new(lines.map(|line| line.map(Frame::data))).boxed_unsync())
}

fn response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// A refusal, as a Status object.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    reason: &'static str,
    message: String,
    retry_after: u32,
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), retry_after: 0 }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(super) fn not_found(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("\"{name}\" not found"))
    }

    pub(super) fn already_exists(name: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "AlreadyExists", format!("\"{name}\" already exists"))
    }

    pub(super) fn conflict(name: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", format!("\"{name}\" has been modified"))
    }

    pub(super) fn expired() -> Self {
        Self::new(StatusCode::GONE, "Expired", "too old resource version")
    }

    pub(super) fn ordered(fault: &Fault) -> Self {
        let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = match status.as_u16() {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        let retry_after = fault.retry_after.unwrap_or(0);
        Self { retry_after, ..Self::new(status, reason, "as the test ordered") }
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.status.as_u16(),
            "details": { "retryAfterSeconds": self.retry_after },
        })
    }
}
