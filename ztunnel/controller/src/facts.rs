//! What is kept of each object that is watched: no more than a resource of the wire is made of.

mod node;
mod pod;
mod policy;
mod service;
mod slice;

use std::collections::BTreeMap;

pub(crate) use node::Node;
pub(crate) use pod::{Owner, Pod};
pub(crate) use policy::{Policy, PolicyKind, Spec};
pub(crate) use service::{Service, ServicePort, TargetPort};
pub(crate) use slice::{Endpoint, Slice};

use kubernetes::kube::api::ObjectMeta;

/// Namespace and name.
pub(crate) type Key = (String, String);
pub(crate) type Labels = BTreeMap<String, String>;

pub(crate) fn key(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// Whether all that a selector names is there. An empty one selects all.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}
