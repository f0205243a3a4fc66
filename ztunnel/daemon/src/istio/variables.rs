//! The environment, read one variable at a time; each error names the variable, what it holds and what it should.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use anyhow::{anyhow, bail};

#[derive(Clone, Debug, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// What is not UTF-8 is none of Istio's.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// An empty one counts as not set.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    pub(super) fn is_empty(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(String::is_empty)
    }

    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let parse = |text: &str| text.parse().map_err(|error| anyhow!("{name}: `{text}`: {error}"));
        self.text(name).map(parse).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> anyhow::Result<Option<bool>> {
        Ok(match self.text(name).map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(other) => bail!("{name}: expected true or false, found `{other}`"),
        })
    }

    pub(super) fn needed(&self, name: &str, why: &str) -> anyhow::Result<&str> {
        self.text(name).ok_or_else(|| {
            anyhow!("{name} is not set: {why}; the DaemonSet's manifest sets it by the downward API")
        })
    }

    /// What follows the prefix, and the value.
    pub(super) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str())
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}
