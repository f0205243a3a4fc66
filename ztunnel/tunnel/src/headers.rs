//! What a CONNECT says besides where to: the headers that ambient proxies exchange.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use crate::error::DialError;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const FORWARDED: HeaderName = http::header::FORWARDED;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// An empty one is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectHeaders {
    /// Who the source is, as comma-joined `key=value`; W3C Baggage. Told, not proven.
    pub baggage: String,
    /// RFC 7239, such as `for="10.1.1.10:1698"`.
    pub forwarded: String,
    /// W3C Trace Context.
    pub traceparent: String,
}

impl ConnectHeaders {
    pub(crate) fn of(map: &HeaderMap) -> Self {
        Self {
            baggage: text(map, &BAGGAGE),
            forwarded: text(map, &FORWARDED),
            traceparent: text(map, &TRACEPARENT),
        }
    }

    pub(crate) fn into_request(self, authority: SocketAddr) -> Result<Request<()>, DialError> {
        let mut request = Request::builder().method(Method::CONNECT).uri(authority.to_string());
        for (name, value) in
            [(BAGGAGE, self.baggage), (FORWARDED, self.forwarded), (TRACEPARENT, self.traceparent)]
        {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        request.body(()).map_err(|_| DialError::BadHeader)
    }
}

/// The answer that opens a stream. Baggage that HTTP cannot carry is left out.
pub(crate) fn success(baggage: &str) -> Response<()> {
    let mut response = Response::new(());
    if let Ok(value) = HeaderValue::from_str(baggage)
        && !value.is_empty()
    {
        response.headers_mut().insert(BAGGAGE, value);
    }
    response
}

pub(crate) fn refusal(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

pub(crate) fn baggage(map: &HeaderMap) -> Option<String> {
    map.get(BAGGAGE).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Empty for what is missing or is not text.
fn text(map: &HeaderMap, name: &HeaderName) -> String {
    map.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
