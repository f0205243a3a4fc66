//! An answer, before HTTP. Lists are written while they are read: whoever reads slowly holds a few chunks of them, and
//! never the whole.

use std::io::{self, Write};

use bytes::Bytes;
use hyper::StatusCode;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

use super::request::Request;
use crate::table::{Row, table};

pub(crate) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    /// How many there are in all, of a list that may be shown in part.
    pub(super) total: Option<usize>,
    pub(super) body: Body,
}

pub(super) enum Body {
    Whole(Bytes),
    Written(Writer),
}

/// Runs on a thread that may block.
pub(super) type Writer = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    pub(super) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, total: None, body: Body::Whole(body.into()) }
    }

    pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, TEXT, body)
    }

    pub(super) fn bad_request(body: &str) -> Self {
        Self::text(StatusCode::BAD_REQUEST, body.to_owned())
    }

    /// For what is small.
    pub(super) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self::new(StatusCode::OK, JSON, body)
            }
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    pub(super) fn writes_json(
        write: impl FnOnce(&mut dyn Write) -> Result<(), serde_json::Error> + Send + 'static,
    ) -> Self {
        let body = Body::Written(Box::new(|output| write(output).map_err(io::Error::from)));
        Self { status: StatusCode::OK, content_type: JSON, total: None, body }
    }

    /// The part of `items` that was asked for; `view` is asked for one at a time.
    pub(super) fn list<T: Send + 'static, R: Row + Serialize>(
        request: &Request,
        items: Vec<T>,
        view: impl Fn(&T) -> R + Send + 'static,
    ) -> Self {
        let (offset, limit) = match request.window() {
            Ok(window) => window,
            Err(answer) => return answer,
        };
        let total = items.len();
        let end = offset.saturating_add(limit).min(total);
        let shown = offset.min(end)..end;
        let answer = if request.text {
            let left = total - shown.len();
            let mut text = table(items[shown].iter().map(&view));
            if left > 0 {
                text.push_str(&format!(
                    "({left} more of {total} are not shown: filter, or page with limit and offset)\n"
                ));
            }
            Self::text(StatusCode::OK, text)
        } else {
            Self::writes_json(move |output| {
                let mut json = serde_json::Serializer::pretty(output);
                let mut list = json.serialize_seq(None)?;
                items[shown].iter().try_for_each(|item| list.serialize_element(&view(item)))?;
                SerializeSeq::end(list)
            })
        };
        Self { total: Some(total), ..answer }
    }
}

/// A sequence that exists only while it is written.
pub(super) struct Each<F>(pub(super) F);

impl<F, I> Serialize for Each<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// The same of a map.
pub(super) struct EachKey<F>(pub(super) F);

impl<F, I, K: Serialize, V: Serialize> Serialize for EachKey<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (K, V)>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        (self.0)().try_for_each(|(key, value)| map.serialize_entry(&key, &value))?;
        map.end()
    }
}
