//! A policy, read as far as it can be.

use kubernetes::{
    kube::core::DynamicObject,
    policies::{AuthorizationPolicySpec, PeerAuthenticationSpec, read_spec},
};
use serde_json::Value;

use super::{Key, key};

const DRY_RUN: &str = "istio.io/dry-run";
/// As Go's programs read it.
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PolicyKind {
    Authorization,
    PeerAuthentication,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) key: Key,
    pub(crate) generation: i64,
    /// Whoever is older goes first; as in RFC 3339, which sorts by time.
    pub(crate) created: String,
    pub(crate) dry_run: bool,
    pub(crate) spec: Spec,
    /// As it stands there now.
    pub(crate) conditions: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spec {
    Authorization(AuthorizationPolicySpec),
    PeerAuthentication(PeerAuthenticationSpec),
    /// It says something, but nobody knows what. With what can be read of its selector and action.
    Unreadable {
        problem: String,
        raw: Value,
    },
}

impl Policy {
    pub(crate) fn of(object: &DynamicObject, kind: PolicyKind) -> Self {
        let spec = match kind {
            PolicyKind::Authorization => read_spec(object).map(Spec::Authorization),
            PolicyKind::PeerAuthentication => read_spec(object).map(Spec::PeerAuthentication),
        };
        let raw = object.data.get("spec").cloned().unwrap_or_default();
        let spec = spec.unwrap_or_else(|problem| Spec::Unreadable { problem, raw });
        let metadata = &object.metadata;
        let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(DRY_RUN));
        Self {
            key: key(metadata),
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
            dry_run: annotation.is_some_and(|value| TRUE.contains(&value.as_str())),
            spec,
            conditions: object.data.pointer("/status/conditions").cloned().unwrap_or_default(),
        }
    }
}
