//! A pod.

use std::{collections::BTreeMap, net::IpAddr};

use kubernetes::{Facts, Own, k8s_openapi::api::core::v1 as api};

use super::{Key, Labels, key};

/// The label of a ReplicaSet's pods, by which their Deployment's name is found.
const TEMPLATE_HASH: &str = "pod-template-hash";

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) labels: Labels,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node: String,
    pub(crate) service_account: String,
    pub(crate) host_network: bool,
    pub(crate) ready: bool,
    /// Succeeded or failed.
    pub(crate) ended: bool,
    pub(crate) owner: Owner,
    /// By name: what services mean by a named target port. Of TCP.
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) enrolment: Facts,
}

/// What made it, as far as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Deployment(String),
    Job(String),
    CronJob(String),
    /// Itself, or something of another sort.
    Pod,
}

impl Pod {
    pub(crate) fn of(pod: api::Pod, own: &Own) -> Self {
        let enrolment = Facts::of(&pod, own);
        let key = key(&pod.metadata);
        let owner = owner(&pod);
        let ending = pod.metadata.deletion_timestamp.is_some();
        let labels = pod.metadata.labels.unwrap_or_default();
        let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let single = status.pod_ip.filter(|_| status.pod_ips.as_ref().is_none_or(Vec::is_empty));
        let many = status.pod_ips.unwrap_or_default().into_iter().map(|address| address.ip);
        let addresses = many.chain(single).filter_map(|address| address.parse().ok()).collect();
        // Of those that start before, only sidecars stay.
        let sidecars = spec.init_containers.unwrap_or_default().into_iter();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let named = spec
            .containers
            .into_iter()
            .chain(sidecars)
            .flat_map(|container| container.ports.unwrap_or_default());
        let mut ports = BTreeMap::new();
        for (name, port) in named.filter_map(self::named) {
            // The first of a name counts.
            ports.entry(name).or_insert(port);
        }
        Self {
            key,
            uid: pod.metadata.uid.unwrap_or_default(),
            labels,
            addresses,
            node: spec.node_name.unwrap_or_default(),
            service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
            host_network: spec.host_network.unwrap_or_default(),
            ready: ready && !ending,
            ended,
            owner,
            ports,
            enrolment,
        }
    }
}

fn named(port: api::ContainerPort) -> Option<(String, u16)> {
    let is_tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    Some((port.name.filter(|_| is_tcp)?, u16::try_from(port.container_port).ok()?))
}

fn owner(pod: &api::Pod) -> Owner {
    let controllers = pod.metadata.owner_references.iter().flatten();
    let Some(controller) = controllers.into_iter().find(|owner| owner.controller == Some(true)) else {
        return Owner::Pod;
    };
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
    match (controller.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => match controller.name.strip_suffix(&format!("-{hash}")) {
            Some(deployment) => Owner::Deployment(deployment.to_owned()),
            None => Owner::Pod,
        },
        ("Job", _) => {
            cron_job(&controller.name).map_or_else(|| Owner::Job(controller.name.clone()), Owner::CronJob)
        }
        ("CronJob", _) => Owner::CronJob(controller.name.clone()),
        _ => Owner::Pod,
    }
}

/// A CronJob's Job ends with the minute it was made for.
fn cron_job(job: &str) -> Option<String> {
    let (name, minute) = job.rsplit_once('-')?;
    let is_minute = (8..=10).contains(&minute.len()) && minute.bytes().all(|digit| digit.is_ascii_digit());
    (is_minute && !name.is_empty()).then(|| name.to_owned())
}
