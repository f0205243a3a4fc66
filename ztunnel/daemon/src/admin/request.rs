//! What was asked, as pages see it: path, parameters, form, and whether the asker may change anything.

use std::fmt::Display;

use hyper::{
    Method,
    header::{ACCEPT, HeaderMap},
};

use super::Answer;

/// Rows of one answer, unless another number is asked for.
const ROWS: usize = 10_000;
/// A table is made in one piece, as its columns are as wide as their widest.
const MAX_TABLE_ROWS: usize = 10_000;

/// A parameter, and whether something is what it asks for.
pub(super) type Filter<'a> = (&'a str, &'a dyn Fn(&str) -> bool);

#[derive(Debug)]
pub(crate) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    parameters: Vec<(String, String)>,
    /// A table for people, rather than JSON.
    pub(super) text: bool,
    /// It came over the Unix socket, from the node's root.
    pub(super) trusted: bool,
}

impl Request {
    pub(super) fn new(method: &Method, uri: &hyper::Uri, headers: &HeaderMap, trusted: bool) -> Self {
        let parameters: Vec<(String, String)> =
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let format = parameters.iter().find(|(name, _)| name == "format").map(|(_, format)| format.as_str());
        let accepts = |form| {
            headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|all| all.contains(form))
        };
        let text = match format {
            Some(format) => format == "text",
            None => accepts("text/plain") && !accepts("application/json"),
        };
        Self { method: method.clone(), path: uri.path().to_owned(), parameters, text, trusted }
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// `?denied` and `?denied=true` say so.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.parameter(name).is_some_and(|value| matches!(value, "" | "true" | "1"))
    }

    /// A number, if it is given; an answer to whoever gave something else.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, Answer> {
        let Some(value) = self.parameter(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|error| wrong(name, value, error))
    }

    /// A parameter that is misspelled would otherwise answer another question than was asked.
    pub(super) fn knows_only(&self, known: &[&str]) -> Result<(), Answer> {
        match self.parameters.iter().find(|(name, _)| name != "format" && !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(Answer::bad_request(&format!("unknown parameter `{name}`; this page knows: {known}\n")))
            }
        }
    }

    /// How many to leave out at the start, and how many to show at most.
    pub(super) fn window(&self) -> Result<(usize, usize), Answer> {
        let limit = self.number("limit")?.unwrap_or(ROWS);
        let limit = if self.text { limit.min(MAX_TABLE_ROWS) } else { limit };
        Ok((self.number("offset")?.unwrap_or(0), limit))
    }

    /// Whether anything is asked for but a form, an order or a part.
    pub(super) fn asks_for_some(&self) -> bool {
        self.parameters
            .iter()
            .any(|(name, _)| !matches!(name.as_str(), "format" | "limit" | "offset" | "sort"))
    }

    /// Whether each given parameter is what is said here.
    pub(super) fn matches(&self, own: &[Filter<'_>]) -> bool {
        own.iter().all(|(name, is_it)| self.parameter(name).is_none_or(is_it))
    }
}

fn wrong(name: &str, value: &str, error: impl Display) -> Answer {
    Answer::bad_request(&format!("{name}=`{value}`: {error}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, accept: &'static str) -> Request {
        let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
        Request::new(&Method::GET, &uri.parse().unwrap(), &headers, false)
    }

    #[test]
    fn programs_get_json_and_people_who_ask_for_it_a_table() {
        assert!(!request("/workloads", "*/*").text);
        assert!(request("/workloads", "text/plain").text);
        assert!(request("/workloads?format=text", "*/*").text);
        assert!(!request("/workloads?format=json", "text/plain").text);
        assert!(!request("/workloads", "application/json, text/plain").text);
    }

    #[test]
    fn parameters_are_decoded_and_unknown_ones_refused() {
        let asked = request("/w?name=a%2Fb+c&denied&limit=3&offset=x", "*/*");
        assert_eq!(asked.parameter("name"), Some("a/b c"));
        assert!(asked.flag("denied") && !asked.flag("plaintext"));
        assert_eq!(asked.number("limit").ok().flatten(), Some(3));
        assert!(asked.window().is_err());
        assert!(asked.knows_only(&["name", "denied", "limit"]).is_err());
        assert!(asked.knows_only(&["name", "denied", "limit", "offset"]).is_ok());
    }
}
