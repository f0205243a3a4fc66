//! How a policy compares text: exactly, by prefix, by suffix, or by mere presence.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Any value at all.
    Presence,
}

impl StringMatch {
    pub(super) fn holds(&self, value: Option<&str>) -> bool {
        let Some(value) = value else { return false };
        match self {
            Self::Exact(exact) => value == exact,
            Self::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_str()),
            Self::Presence => !value.is_empty(),
        }
    }
}

/// `{exact: text}` and its like; presence as `presence` or `{presence: anything}`. The first letter may be a capital,
/// as dumps of other proxies have it.
impl<'de> Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Spelling)
    }
}

struct Spelling;

const EXPECTED: &str = "one of {exact: TEXT}, {prefix: TEXT}, {suffix: TEXT}, presence";

impl<'de> Visitor<'de> for Spelling {
    type Value = StringMatch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StringMatch, E> {
        match text {
            "presence" | "Presence" => Ok(StringMatch::Presence),
            other => Err(E::custom(format!("`{other}` is not {EXPECTED}"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMatch, A::Error> {
        let kind: String = map.next_key()?.ok_or_else(|| A::Error::custom(format!("expected {EXPECTED}")))?;
        let matcher = match kind.as_str() {
            "exact" | "Exact" => StringMatch::Exact(map.next_value()?),
            "prefix" | "Prefix" => StringMatch::Prefix(map.next_value()?),
            "suffix" | "Suffix" => StringMatch::Suffix(map.next_value()?),
            "presence" | "Presence" => map.next_value::<IgnoredAny>().map(|_| StringMatch::Presence)?,
            other => return Err(A::Error::custom(format!("`{other}` is not {EXPECTED}"))),
        };
        match map.next_key::<String>()? {
            None => Ok(matcher),
            Some(second) => {
                Err(A::Error::custom(format!("`{kind}` and `{second}` at once: expected {EXPECTED}")))
            }
        }
    }
}
