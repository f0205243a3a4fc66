//! `/pods`: this node's pods, enrolled or not.

use super::super::{Admin, Answer, request::Request};
use crate::{status::PodStatus, table::Row};

pub(in crate::admin) const PARAMETERS: &[&str] = &["name", "limit", "offset"];

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let mut pods = admin.node.status();
    pods.retain(|pod| request.matches(&[("name", &|name| pod.uid.as_str().contains(name))]));
    Answer::list(request, pods, PodStatus::clone)
}

impl Row for PodStatus {
    const HEADER: &'static [&'static str] = &["POD", "ENROLLED", "CONNECTIONS", "ADDRESSES", "PROBLEM"];

    fn cells(&self) -> Vec<String> {
        let addresses = self.settings.iter().flat_map(|settings| &settings.ips).map(ToString::to_string);
        vec![
            self.uid.to_string(),
            if self.enrolled { "yes" } else { "no" }.to_owned(),
            self.connections.to_string(),
            addresses.collect::<Vec<_>>().join(","),
            self.problem.clone().unwrap_or_default(),
        ]
    }
}
