//! A node: where it is.

use kubernetes::k8s_openapi::api::core::v1 as api;

const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const SUBZONE: [&str; 1] = ["topology.istio.io/subzone"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) subzone: String,
}

impl Node {
    pub(crate) fn of(node: api::Node) -> Self {
        let labels = node.metadata.labels.unwrap_or_default();
        let first =
            |names: &[&str]| names.iter().find_map(|name| labels.get(*name)).cloned().unwrap_or_default();
        let (region, zone, subzone) = (first(&REGION), first(&ZONE), first(&SUBZONE));
        Self { name: node.metadata.name.unwrap_or_default(), region, zone, subzone }
    }
}
