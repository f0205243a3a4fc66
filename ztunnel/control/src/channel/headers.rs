//! Headers that an operator adds to each request, as for a proxy in front of the control plane.

use std::{collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

/// Values may be credentials: they are never shown.
const HIDDEN: &str = "(hidden)";

#[derive(Clone, Default)]
pub struct RequestHeaders(HeaderMap);

/// Never quotes the value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoHeader {
    #[error("`{0}` is not the name of a header")]
    Name(String),
    #[error("the header `{0}` is ours to set")]
    Ours(String),
    #[error("the header `{0}`: expected a value of visible ASCII characters and spaces")]
    Value(String),
}

impl RequestHeaders {
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name, value.clone());
        }
    }
}

impl TryFrom<BTreeMap<String, String>> for RequestHeaders {
    type Error = NoHeader;

    fn try_from(given: BTreeMap<String, String>) -> Result<Self, NoHeader> {
        let mut headers = HeaderMap::with_capacity(given.len());
        for (name, value) in given {
            let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(NoHeader::Name(name));
            };
            if is_ours(&parsed) {
                return Err(NoHeader::Ours(name));
            }
            let is_text = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            let Some(mut value) = HeaderValue::try_from(value).ok().filter(|_| is_text) else {
                return Err(NoHeader::Value(name));
            };
            value.set_sensitive(true);
            headers.insert(parsed, value);
        }
        Ok(Self(headers))
    }
}

/// What says who we are, and what gRPC and HTTP/2 need to be as they are.
fn is_ours(name: &HeaderName) -> bool {
    let ours = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    ours.contains(name)
        || name == "clusterid"
        || name.as_str().starts_with("grpc-")
        || name.as_str().ends_with("-bin")
}

impl<'de> Deserialize<'de> for RequestHeaders {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl Serialize for RequestHeaders {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.keys().map(|name| (name.as_str(), HIDDEN)))
    }
}

impl fmt::Debug for RequestHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}
