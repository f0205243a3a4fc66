//! How a service's endpoints are preferred to one another. Field names in text are those of Istio's local
//! configuration.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::Workload;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancer {
    /// What client and endpoint should share, the widest first.
    routing_preferences: Scopes,
    pub mode: Mode,
    pub health_policy: HealthPolicy,
}

/// Each scope once: a repeated one says nothing, and there are only six.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Scope>", into = "Vec<Scope>")]
struct Scopes(SmallVec<[Scope; 6]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// All endpoints alike.
    #[default]
    Standard,
    /// Only endpoints that share every scope.
    Strict,
    /// The endpoints that share the most scopes, counted from the first.
    Failover,
    /// Nobody is chosen: the connection goes to the address that was asked for.
    Passthrough,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

impl LoadBalancer {
    pub fn new(mode: Mode, scopes: impl IntoIterator<Item = Scope>) -> Self {
        let routing_preferences = Scopes::from(scopes.into_iter().collect::<Vec<_>>());
        Self { routing_preferences, mode, health_policy: HealthPolicy::default() }
    }

    pub fn scopes(&self) -> &[Scope] {
        &self.routing_preferences.0
    }
}

impl From<Vec<Scope>> for Scopes {
    fn from(all: Vec<Scope>) -> Self {
        let mut each = SmallVec::new();
        for scope in all {
            if !each.contains(&scope) {
                each.push(scope);
            }
        }
        Self(each)
    }
}

impl From<Scopes> for Vec<Scope> {
    fn from(scopes: Scopes) -> Self {
        scopes.0.into_vec()
    }
}

impl Scope {
    /// What a workload is in, in this scope.
    pub(crate) fn of(self, workload: &Workload) -> &str {
        match self {
            Self::Region => &workload.locality.region,
            Self::Zone => &workload.locality.zone,
            Self::Subzone => &workload.locality.subzone,
            Self::Node => &workload.node,
            Self::Cluster => &workload.cluster_id,
            Self::Network => workload.network.as_str(),
        }
    }
}
