//! The policies of `security.istio.io/v1` as resources: what an AuthorizationPolicy and a PeerAuthentication may say, and
//! the CRDs of clusters that have none.
//!
//! What is not known here is kept, not ignored: a field that nobody understood must never make a policy wider.

mod authorization;
mod peer_authentication;

pub use authorization::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, From, Operation, Provider, Rule, Source,
    TargetRef, To,
};
pub use peer_authentication::{MutualTls, MutualTlsMode, PeerAuthentication, PeerAuthenticationSpec};

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition as StatusCondition;
use kube::core::{ApiResource, DynamicObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The type of the condition that tells what has become of a policy; istiod calls it so.
pub const CONDITION: &str = "ZtunnelAccepted";

/// Fields that nobody here knows.
pub type Unknown = BTreeMap<String, Value>;

/// Which workloads of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// What the controller has made of a policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct PolicyStatus {
    #[serde(default)]
    pub conditions: Vec<StatusCondition>,
}

/// The policies are watched as they are, so that one that cannot be read does not hide the others.
pub fn authorization_policies() -> ApiResource {
    ApiResource::erase::<AuthorizationPolicy>(&())
}

pub fn peer_authentications() -> ApiResource {
    ApiResource::erase::<PeerAuthentication>(&())
}

/// The `spec` of a policy that was watched as it is; the error says what is wrong with it.
pub fn read_spec<T: DeserializeOwned + Default>(object: &DynamicObject) -> Result<T, String> {
    match object.data.get("spec") {
        None | Some(Value::Null) => Ok(T::default()),
        Some(spec) => T::deserialize(spec).map_err(|error| error.to_string()),
    }
}

/// What has to be installed before policies can be written, as YAML: the chart's own.
pub fn crds() -> [&'static str; 2] {
    [
        include_str!("../../../deploy/helm/ztunnel/crds/authorizationpolicies.yaml"),
        include_str!("../../../deploy/helm/ztunnel/crds/peerauthentications.yaml"),
    ]
}

#[cfg(test)]
mod tests;
