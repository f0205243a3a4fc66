//! Authorization policies of layer 4, with the meaning that Istio's AuthorizationPolicy has for ztunnel.
//!
//! Rules are OR, clauses AND, matches within a clause OR, fields within a match AND, values within a
//! field OR. No rules match nothing; a rule without clauses, or a clause without matches, matches
//! everything; a match with no field set matches nothing.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::SpiffeId;

mod string_match;
#[cfg(test)]
pub(crate) mod tests;

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
    /// Listed, never enforced.
    #[serde(default)]
    pub dry_run: bool,
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
    pub source_ip: IpAddr,
    pub destination_ip: IpAddr,
    pub destination_port: u16,
}

impl Policy {
    pub fn key(&self) -> PolicyKey {
        PolicyKey { namespace: self.namespace.as_str().into(), name: self.name.as_str().into() }
    }

    pub fn matches(&self, attributes: &Attributes<'_>) -> bool {
        self.rules.iter().any(|clauses| {
            clauses.iter().all(|matches| matches.is_empty() || matches.iter().any(|m| m.holds(attributes)))
        })
    }
}

impl Match {
    fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    fn holds(&self, a: &Attributes<'_>) -> bool {
        let namespace = a.peer.map(SpiffeId::namespace);
        let principal = a.peer.map(SpiffeId::principal);
        let account = |m: &ServiceAccountMatch| {
            a.peer.is_some_and(|p| p.namespace() == m.namespace && p.service_account() == m.service_account)
        };
        !self.is_unset()
            && field(&self.namespaces, &self.not_namespaces, |m| m.holds(namespace))
            && field(&self.service_accounts, &self.not_service_accounts, account)
            && field(&self.principals, &self.not_principals, |m| m.holds_principal(principal))
            && field(&self.source_ips, &self.not_source_ips, |net| net.contains(&a.source_ip))
            && field(&self.destination_ips, &self.not_destination_ips, |net| net.contains(&a.destination_ip))
            && field(&self.destination_ports, &self.not_destination_ports, |&p| p == a.destination_port)
    }
}

/// A field holds if any of its values does, and none of the negated ones.
fn field<T>(values: &[T], not_values: &[T], holds: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&holds)) && !not_values.iter().any(&holds)
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
