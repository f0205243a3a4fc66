//! Authorization policies of layer 4, with the meaning that Istio's AuthorizationPolicy has for ztunnel.
//!
//! Rules are OR, clauses AND, matches within a clause OR, fields within a match AND, values within a
//! field OR. No rules match nothing; a rule without clauses, or a clause without matches, matches
//! everything; a match with no field set matches nothing.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::SpiffeId;

pub(crate) mod compiled;
mod door;
pub(crate) mod index;
mod layer7;
mod string_match;
#[cfg(test)]
pub(crate) mod tests;

pub use layer7::Unenforced;
pub use string_match::StringMatch;

/// `namespace/name`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    Global,
    Namespace,
    /// Applies to the workloads that name it in `authorizationPolicies`.
    WorkloadSelector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    pub name: String,
    pub namespace: String,
    pub scope: Scope,
    pub action: Action,
    /// Rules of clauses of matches.
    #[serde(default)]
    pub rules: Vec<Vec<Vec<Match>>>,
    /// Evaluated, never enforced.
    #[serde(default)]
    pub dry_run: bool,
    /// Of other proxies; not enforced.
    #[serde(default, skip_serializing_if = "Unenforced::is_absent")]
    pub extensions: Unenforced,
    /// The names of fields that it has and that mean nothing to us.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub not_understood: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<ServiceAccountMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Compared without `spiffe://`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
    // Of layer 7, so not enforced here: see `layer7`.
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub hosts: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub not_hosts: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub methods: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub not_methods: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub paths: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub not_paths: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub request_principals: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub not_request_principals: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub remote_ip_blocks: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub not_remote_ip_blocks: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub when: Unenforced,
    #[serde(skip_serializing_if = "Unenforced::is_absent")]
    pub extensions: Unenforced,
    /// The names of fields that it has and that mean nothing to us; or of what should have held it.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub not_understood: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountMatch {
    pub namespace: String,
    pub service_account: String,
}

/// What a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// The identity proven by mutual TLS; `None` for plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// Its other names, where its trust domain has aliases; a policy may use any.
    pub other_names: &'a [SpiffeId],
    pub source_ip: IpAddr,
    pub destination_ip: IpAddr,
    pub destination_port: u16,
}

impl<'a> Attributes<'a> {
    /// The spellings of policies of the one who connects, for plaintext none.
    pub(crate) fn principals(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.peer.into_iter().chain(self.other_names).map(SpiffeId::principal)
    }
}

impl Policy {
    pub fn key(&self) -> PolicyKey {
        PolicyKey { namespace: self.namespace.as_str().into(), name: self.name.as_str().into() }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a policy's `namespace/name`")]
pub struct NotAPolicyKey(String);

impl FromStr for PolicyKey {
    type Err = NotAPolicyKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(NotAPolicyKey(text.to_owned())),
        }
    }
}

impl Serialize for PolicyKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
