//! `/workloads`: with the keys of Istio's dumps, and ours beside them.

use std::sync::Arc;

use model::Workload;
use serde::Serialize;

use super::super::{Admin, Answer, request::Request};
use crate::table::Row;

pub(in crate::admin) const PARAMETERS: &[&str] = &["namespace", "name", "node", "limit", "offset"];

pub(super) struct WorkloadView(pub(super) Arc<Workload>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(flatten)]
    workload: &'a Workload,
    service_account: &'a str,
    trust_domain: &'a str,
}

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let snapshot = admin.snapshot.load();
    let wanted = |workload: &&Arc<Workload>| {
        request.matches(&[
            ("namespace", &|namespace| *workload.namespace == *namespace),
            ("name", &|name| workload.name.contains(name) || workload.workload_name.contains(name)),
            ("node", &|node| *workload.node == *node),
        ])
    };
    let workloads: Vec<_> = snapshot.workloads().filter(wanted).cloned().collect();
    Answer::list(request, workloads, |workload| WorkloadView(Arc::clone(workload)))
}

impl Serialize for WorkloadView {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let identity = &self.0.identity;
        let fields = Fields {
            workload: &self.0,
            service_account: identity.service_account(),
            trust_domain: identity.trust_domain().as_str(),
        };
        fields.serialize(serializer)
    }
}

impl Row for WorkloadView {
    const HEADER: &'static [&'static str] =
        &["NAMESPACE", "NAME", "ADDRESS", "NODE", "PROTOCOL", "STATUS", "WAYPOINT", "SERVICE ACCOUNT"];

    fn cells(&self) -> Vec<String> {
        let Workload { namespace, name, workload_ips, hostname, node, protocol, status, .. } = &*self.0;
        let addresses: Vec<_> = workload_ips.iter().map(ToString::to_string).collect();
        let address = if addresses.is_empty() { hostname.to_string() } else { addresses.join(",") };
        let waypoint = self.0.waypoint.as_ref().map(|waypoint| waypoint.destination.to_string());
        vec![
            namespace.to_string(),
            name.to_string(),
            address,
            node.to_string(),
            format!("{protocol:?}").to_uppercase(),
            format!("{status:?}"),
            waypoint.unwrap_or_default(),
            self.0.identity.service_account().to_owned(),
        ]
    }
}
