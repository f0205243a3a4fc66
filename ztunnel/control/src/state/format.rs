//! The form of the file: the field names and spellings of Istio's local configuration and of its dumps.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use model::{
    Network, Settings, SpiffeId, TrustDomain, WorkloadUid,
    policy::PolicyKey,
    service::{IpFamilies, LoadBalancer, ServiceKey, Vip, Visibility},
    small_map::SmallMap,
    workload::{ApplicationTunnel, Health, Locality, NetworkMode, PortMap, Protocol, Waypoint, WorkloadType},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_saphyr::Spanned;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "P: Deserialize<'de>"))]
pub(super) struct MeshText<P> {
    #[serde(default)]
    pub(super) workloads: Vec<Spanned<WorkloadText>>,
    #[serde(default)]
    pub(super) services: Vec<Spanned<ServiceText>>,
    #[serde(default)]
    pub(super) policies: Vec<Spanned<P>>,
    /// Ours; other proxies' files have none.
    #[serde(default)]
    pub(super) settings: Option<Spanned<Settings>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadText {
    pub(super) uid: WorkloadUid,
    #[serde(default)]
    pub(super) name: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) trust_domain: Option<TrustDomain>,
    #[serde(default = "default_service_account")]
    pub(super) service_account: String,
    pub(super) workload_ips: Vec<IpAddr>,
    #[serde(default)]
    pub(super) network: Network,
    #[serde(default)]
    pub(super) network_mode: NetworkMode,
    #[serde(default)]
    pub(super) protocol: Protocol,
    #[serde(default)]
    pub(super) status: Health,
    #[serde(default)]
    pub(super) node: Arc<str>,
    #[serde(default)]
    pub(super) hostname: Arc<str>,
    #[serde(default)]
    pub(super) cluster_id: Arc<str>,
    #[serde(default)]
    pub(super) canonical_name: Arc<str>,
    #[serde(default)]
    pub(super) canonical_revision: Arc<str>,
    #[serde(default)]
    pub(super) workload_name: Arc<str>,
    #[serde(default)]
    pub(super) workload_type: WorkloadType,
    #[serde(default)]
    pub(super) locality: Locality,
    #[serde(default = "default_capacity")]
    pub(super) capacity: u32,
    #[serde(default)]
    pub(super) services: SmallMap<ServiceKey, PortMap>,
    #[serde(default)]
    pub(super) authorization_policies: Vec<PolicyKey>,
    #[serde(default)]
    pub(super) native_tunnel: bool,
    pub(super) waypoint: Option<Waypoint>,
    /// Known, and without effect until other networks can be reached.
    pub(super) network_gateway: Option<IgnoredAny>,
    pub(super) application_tunnel: Option<ApplicationTunnel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceText {
    pub(super) name: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) hostname: Arc<str>,
    #[serde(default)]
    pub(super) vips: Vec<Vip>,
    #[serde(default)]
    pub(super) ports: PortMap,
    /// Ours: other proxies' files have none.
    #[serde(default)]
    pub(super) port_names: BTreeMap<String, u16>,
    #[serde(default)]
    pub(super) subject_alt_names: Vec<SpiffeId>,
    pub(super) waypoint: Option<Waypoint>,
    /// In dumps; in a file a workload names its services.
    #[serde(default)]
    pub(super) endpoints: BTreeMap<String, EndpointText>,
    pub(super) load_balancer: Option<LoadBalancer>,
    pub(super) ip_families: Option<IpFamilies>,
    #[serde(default)]
    pub(super) visibility: Visibility,
    #[serde(default)]
    pub(super) canonical: bool,
    /// Concerns ingress gateways, which are not ours.
    #[serde(default, rename = "ingressUseWaypoint")]
    _ingress_use_waypoint: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EndpointText {
    pub(super) workload_uid: WorkloadUid,
    #[serde(default)]
    pub(super) port: PortMap,
    /// The workload says the same.
    #[serde(default, rename = "status")]
    _status: Health,
}

fn default_service_account() -> String {
    "default".to_owned()
}

fn default_capacity() -> u32 {
    1
}
