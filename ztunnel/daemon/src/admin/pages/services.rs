//! `/services`: with the keys of Istio's dumps, endpoints included.

use std::sync::Arc;

use model::{
    Snapshot, Workload, WorkloadUid,
    service::{Service, ServiceKey},
    workload::{Health, PortMap},
};
use serde::Serialize;

use super::super::{Admin, Answer, answer::EachKey, request::Request};
use crate::table::Row;

pub(in crate::admin) const PARAMETERS: &[&str] = &["namespace", "name", "limit", "offset"];

pub(super) struct ServiceView {
    pub(super) service: Arc<Service>,
    pub(super) snapshot: Arc<Snapshot>,
}

#[derive(Serialize)]
struct Fields<'a, E: Serialize> {
    #[serde(flatten)]
    service: &'a Service,
    endpoints: E,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    workload_uid: &'a WorkloadUid,
    /// Service port to its own.
    port: PortMap,
    status: Health,
}

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let snapshot = admin.snapshot.load();
    let wanted = |service: &&Arc<Service>| {
        request.matches(&[
            ("namespace", &|namespace| *service.namespace == *namespace),
            ("name", &|name| service.name.contains(name) || service.hostname.contains(name)),
        ])
    };
    let services: Vec<_> = snapshot.services().filter(wanted).cloned().collect();
    Answer::list(request, services, move |service| ServiceView {
        service: Arc::clone(service),
        snapshot: Arc::clone(&snapshot),
    })
}

impl<'a> Endpoint<'a> {
    /// What the endpoint says of its ports goes before what the service does.
    fn of(workload: &'a Workload, service: &Service, key: &ServiceKey) -> Self {
        let own = workload.services.get(key).into_iter().flat_map(|ports| ports.iter());
        let port = service.ports.iter().chain(own).map(|(&port, &target)| (port, target)).collect();
        Self { workload_uid: &workload.uid, port, status: workload.status }
    }
}

impl Serialize for ServiceView {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (service, key) = (&*self.service, self.service.key());
        let endpoints = EachKey(|| {
            let endpoints = self.snapshot.endpoints(&key);
            endpoints.map(|workload| (&workload.uid, Endpoint::of(workload, service, &key)))
        });
        Fields { service, endpoints }.serialize(serializer)
    }
}

impl Row for ServiceView {
    const HEADER: &'static [&'static str] =
        &["NAMESPACE", "NAME", "HOSTNAME", "VIP", "PORTS", "WAYPOINT", "ENDPOINTS"];

    fn cells(&self) -> Vec<String> {
        let Service { namespace, name, hostname, vips, ports, waypoint, .. } = &*self.service;
        let vips = vips.iter().map(|vip| vip.to_string().trim_start_matches('/').to_owned());
        let ports: Vec<_> = ports.iter().map(|(port, target)| format!("{port}:{target}")).collect();
        let waypoint = waypoint.as_ref().map(|waypoint| waypoint.destination.to_string());
        let (mut all, mut healthy) = (0_usize, 0_usize);
        for endpoint in self.snapshot.endpoints(&self.service.key()) {
            all += 1;
            healthy += usize::from(endpoint.status == Health::Healthy);
        }
        vec![
            namespace.to_string(),
            name.to_string(),
            hostname.to_string(),
            vips.collect::<Vec<_>>().join(","),
            ports.join(","),
            waypoint.unwrap_or_default(),
            format!("{healthy}/{all} healthy"),
        ]
    }
}
