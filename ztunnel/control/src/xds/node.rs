//! Who this proxy is to the control plane.

use std::collections::BTreeMap;

use proto::{
    discovery::Node,
    prost_types::{Struct, Value, value::Kind},
};
use serde::{Deserialize, Serialize};

/// The pod that the daemon runs in, as its manifest tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyNode {
    /// Its name and namespace.
    pub pod: String,
    pub namespace: String,
    pub ip: String,
    /// The name of the machine.
    pub node_name: String,
    /// The domain of the cluster's services.
    pub cluster_domain: String,
    /// Told as it is.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

impl ProxyNode {
    pub(super) fn told(&self) -> Node {
        let Self { pod, namespace, ip, node_name, cluster_domain, metadata } = self;
        let domain = if cluster_domain.is_empty() { DEFAULT_CLUSTER_DOMAIN } else { cluster_domain };
        let own = [("NAME", pod), ("NAMESPACE", namespace), ("INSTANCE_IPS", ip), ("NODE_NAME", node_name)];
        let own = own
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name.to_owned(), Value { kind: Some(Kind::StringValue(text.clone())) }));
        let given = metadata.iter().map(|(name, value)| (name.clone(), told(value)));
        Node {
            id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.{domain}"),
            metadata: Some(Struct { fields: given.chain(own).collect() }),
        }
    }
}

fn told(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(all) => {
            Kind::ListValue(proto::prost_types::ListValue { values: all.iter().map(told).collect() })
        }
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(name, value)| (name.clone(), told(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}
