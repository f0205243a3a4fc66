//! Paths of the API, and which of them an object belongs to.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// All objects of a sort: its group, version and plural.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Collection {
    pub(super) api_version: String,
    pub(super) plural: String,
}

impl Collection {
    pub(super) fn named(api_version: &str, plural: &str) -> Self {
        Self { api_version: api_version.to_owned(), plural: plural.to_owned() }
    }

    pub(super) fn of(object: &Value) -> Result<Self> {
        let api_version = object["apiVersion"].as_str().context("an object has no apiVersion")?;
        let kind = object["kind"].as_str().context("an object has no kind")?;
        ensure!(object["metadata"]["name"].is_string(), "a {kind} has no name");
        Ok(Self::named(api_version, &plural(kind)))
    }

    pub(super) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Lists of the server's own sorts leave out of each item what the list says.
    pub(super) fn is_built_in(&self) -> bool {
        let group = self.group();
        !group.contains('.') || group.ends_with(".k8s.io")
    }
}

fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
    }
}

/// What a request is about.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) collection: Collection,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    pub(super) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_start_matches('/').split('/').filter(|part| !part.is_empty());
        let api_version = match parts.next()? {
            "api" => parts.next()?.to_owned(),
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            // `namespaces/x` itself and its subresources are not inside of a namespace.
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && !matches!(rest[0], "status" | "finalize") =>
            {
                (Some((*namespace).to_owned()), rest)
            }
            all => (None, all),
        };
        let [plural, rest @ ..] = rest else { return None };
        Some(Self {
            collection: Collection { api_version, plural: (*plural).to_owned() },
            namespace,
            name: rest.first().map(|name| (*name).to_owned()),
            subresource: rest.get(1).map(|subresource| (*subresource).to_owned()),
        })
    }

    pub(super) fn resource(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.collection.plural),
            None => self.collection.plural.clone(),
        }
    }

    /// What is without a namespace stands under an empty one.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}
