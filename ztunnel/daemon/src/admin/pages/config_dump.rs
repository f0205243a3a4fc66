//! `/config_dump`: everything in one page, with the keys that `istioctl ztunnel-config --file` reads; ours are beside
//! them. It is written while it is read, so its size costs no memory.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use model::{Role, SpiffeId, WorkloadUid};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::json;
use telemetry::LiveConnection;

use super::{
    super::{
        Admin, Answer,
        answer::{Each, EachKey},
        request::Request,
    },
    certificates,
    connections::{self, Connection, Place},
    services::ServiceView,
    state,
    workloads::WorkloadView,
};
use crate::status::PodStatus;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodState<'a> {
    /// Istio's word for an enrolled pod is `Up`.
    state: &'static str,
    info: Option<Info<'a>>,
    connections: PodConnections,
    #[serde(flatten)]
    ours: Ours<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ours<'a> {
    enrolled: bool,
    settings: &'a Option<control::LocalPod>,
    problem: &'a Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    name: &'a str,
    namespace: &'a str,
    service_account: &'a str,
    trust_domain: &'a str,
    identity: &'a SpiffeId,
}

#[derive(Default, Serialize)]
struct PodConnections {
    inbound: Vec<PodConnection>,
    outbound: Vec<PodConnection>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodConnection {
    src: SocketAddr,
    original_dst: SocketAddr,
    actual_dst: SocketAddr,
    protocol: &'static str,
}

pub(in crate::admin) fn page(admin: &Admin, _: &Request) -> Answer {
    let snapshot = admin.snapshot.load();
    let certificates: Vec<_> = certificates::views(admin).collect();
    let places = connections::places(admin, &snapshot);
    let pods = admin.node.status();
    let (config, files, verdicts) = (admin.config.clone(), state::watched(admin), state::counts(admin));
    Answer::writes_json(move |output| {
        let by_pod = by_pod(&places);
        let mut json = serde_json::Serializer::pretty(output);
        let mut dump = json.serialize_map(None)?;
        dump.serialize_entry("certificates", &certificates)?;
        dump.serialize_entry("config", &config)?;
        dump.serialize_entry("policies", &Each(|| snapshot.policies()))?;
        let view =
            |service: &_| ServiceView { service: Arc::clone(service), snapshot: Arc::clone(&snapshot) };
        dump.serialize_entry("services", &Each(|| snapshot.services().map(view)))?;
        // Endpoints of services that are not known yet are no endpoints here.
        dump.serialize_entry("stagedServices", &json!({}))?;
        dump.serialize_entry("version", &version())?;
        let states = || {
            let (snapshot, by_pod) = (&snapshot, &by_pod);
            pods.iter().map(move |pod| (&pod.uid, PodState::of(pod, snapshot, by_pod.get(&pod.uid))))
        };
        dump.serialize_entry("workloadState", &EachKey(states))?;
        let workloads = || snapshot.workloads().map(|workload| WorkloadView(Arc::clone(workload)));
        dump.serialize_entry("workloads", &Each(workloads))?;
        dump.serialize_entry("settings", snapshot.settings())?;
        dump.serialize_entry("connections", &Each(|| places.iter().map(Place::read)))?;
        dump.serialize_entry("files", &files)?;
        dump.serialize_entry("redirection", &verdicts)?;
        SerializeMap::end(dump)
    })
}

fn by_pod(places: &[Place]) -> HashMap<&WorkloadUid, Vec<&Place>> {
    let mut by_pod: HashMap<_, Vec<_>> = HashMap::new();
    for place in places {
        by_pod.entry(place.local()).or_default().push(place);
    }
    by_pod
}

fn version() -> BTreeMap<&'static str, &'static str> {
    [
        ("version", env!("CARGO_PKG_VERSION")),
        ("buildProfile", if cfg!(debug_assertions) { "debug" } else { "release" }),
        ("buildStatus", "unknown"),
        ("cryptoProvider", "tls-aws-lc"),
        ("gitRevision", option_env!("ZTUNNEL_GIT_REVISION").unwrap_or("unknown")),
        ("istioVersion", "none"),
        ("rustVersion", env!("ZTUNNEL_RUST_VERSION")),
    ]
    .into()
}

impl<'a> PodState<'a> {
    fn of(pod: &'a PodStatus, snapshot: &'a model::Snapshot, places: Option<&Vec<&Place>>) -> Self {
        let info = snapshot.workload(&pod.uid).map(|workload| Info {
            name: &workload.name,
            namespace: &workload.namespace,
            service_account: workload.identity.service_account(),
            trust_domain: workload.identity.trust_domain().as_str(),
            identity: &workload.identity,
        });
        let mut connections = PodConnections::default();
        for place in places.into_iter().flatten() {
            let (role, connection) = PodConnection::of(&place.read());
            match role {
                Role::Outbound => connections.outbound.push(connection),
                Role::InboundPlaintext | Role::InboundHbone => connections.inbound.push(connection),
            }
        }
        let state = if pod.enrolled { "Up" } else { "Pending" };
        let ours = Ours { enrolled: pod.enrolled, settings: &pod.settings, problem: &pod.problem };
        Self { state, info, connections, ours }
    }
}

impl PodConnection {
    fn of(connection: &Connection) -> (Role, Self) {
        match connection {
            Connection::Older(it) => {
                let destination = it.original_destination.0;
                let plain = Self {
                    src: it.client.0,
                    original_dst: destination,
                    actual_dst: destination,
                    protocol: "TCP",
                };
                (it.role, plain)
            }
            Connection::Live(it) => (it.role, Self::of_live(it)),
        }
    }

    /// Istio shows the tunnel's end for what goes out, and the application's for what comes in.
    fn of_live(it: &LiveConnection) -> Self {
        let original_dst = it.original_destination.0;
        let actual = match it.role {
            Role::Outbound => it.gateway.or(it.target),
            Role::InboundPlaintext | Role::InboundHbone => it.target,
        };
        Self {
            src: it.client.0,
            original_dst,
            actual_dst: actual.unwrap_or(original_dst),
            protocol: if it.mutual_tls { "HBONE" } else { "TCP" },
        }
    }
}
