//! Where this daemon has the mesh from: a watched file, or a control plane.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use control::{ControlPlane, ControlPlaneStatus, FileStatus, LocalPod, StateFile};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use model::{SharedSnapshot, demand::Demand};
use serde_json::{Value, json};
use telemetry::metrics::Page;
use tokio::sync::watch;

use crate::{config::Config, metrics::as_float};

const CONNECTED: &str = "ztunnel_xds_connected";
const AGE: &str = "ztunnel_xds_state_age_seconds";
const STREAMS: &str = "ztunnel_xds_streams_total";
const FAILURES: &str = "ztunnel_xds_failures_total";
const RESPONSES: &str = "ztunnel_xds_responses_total";
const REFUSED: &str = "ztunnel_xds_refused_responses_total";
const OBJECTS: &str = "ztunnel_xds_objects";
const ON_DEMAND: &str = "ztunnel_xds_on_demand_names";
const REJECTED: &str = "ztunnel_xds_rejected_resource";
const VERSION: &str = "ztunnel_xds_version_info";

/// Of a name that the control plane chose.
const MAX_NAME_CHARS: usize = 256;

/// Followed for as long as it lives.
pub(crate) enum State {
    File(StateFile),
    ControlPlane(ControlPlane),
}

impl State {
    /// From a file all is there when this returns; from a control plane when [`State::complete`] does.
    pub(crate) async fn start(config: &Config, snapshot: &Arc<SharedSnapshot>) -> anyhow::Result<Self> {
        let snapshot = Arc::clone(snapshot);
        if let Some(section) = &config.control_plane {
            return Ok(Self::ControlPlane(ControlPlane::start(section.settings(config), snapshot)));
        }
        let file: PathBuf = config.state_file.clone().unwrap_or_default();
        Ok(Self::File(StateFile::start(&file, config.trust_domain.clone(), snapshot).await?))
    }

    pub(crate) async fn complete(&self) {
        if let Self::ControlPlane(control_plane) = self {
            control_plane.complete().await;
        }
    }

    /// The pods of this node, whose own state is always wanted.
    pub(crate) fn keep(&self, pods: &[LocalPod]) {
        if let Self::ControlPlane(control_plane) = self {
            control_plane.keep(&pods.iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>());
        }
    }

    /// Follows the list of pods, forever.
    pub(crate) async fn follow(self: Arc<Self>, mut pods: watch::Receiver<Arc<Vec<LocalPod>>>) {
        while pods.changed().await.is_ok() {
            let list = Arc::clone(&pods.borrow_and_update());
            self.keep(&list);
        }
    }

    pub(crate) fn demand(&self) -> Option<Arc<dyn Demand>> {
        match self {
            Self::File(_) => None,
            Self::ControlPlane(control_plane) => control_plane.demand(),
        }
    }

    pub(crate) fn status(&self) -> StateStatus {
        match self {
            Self::File(file) => StateStatus::File(file.status()),
            Self::ControlPlane(control_plane) => StateStatus::ControlPlane(control_plane.status()),
        }
    }
}

/// What the endpoints tell of it.
pub(crate) enum StateStatus {
    File(watch::Receiver<FileStatus>),
    ControlPlane(watch::Receiver<ControlPlaneStatus>),
}

impl StateStatus {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::File(status) => json!(*status.borrow()),
            Self::ControlPlane(status) => json!(*status.borrow()),
        }
    }

    /// What must be there before anything can be served.
    pub(crate) fn pending(&self) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::ControlPlane(status) => status.borrow().pending(),
        }
    }

    /// For whoever asks whether we are ready: we are, by what was known then.
    pub(crate) fn stale(&self) -> Option<String> {
        let Self::ControlPlane(status) = self else { return None };
        let status = status.borrow();
        let age = status.age(SystemTime::now()).filter(|_| !status.connected)?;
        let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
        Some(format!("the control plane {} is gone; the mesh state is of {age} ago", status.address))
    }

    /// Resources that a control plane has sent so far.
    pub(crate) fn came(&self) -> u64 {
        match self {
            Self::File(_) => 0,
            Self::ControlPlane(status) => {
                status.borrow().types.values().map(|of_type| of_type.resources).sum()
            }
        }
    }

    /// The file that it is from, if it is.
    pub(crate) fn file(&self) -> Option<FileStatus> {
        match self {
            Self::File(status) => Some(status.borrow().clone()),
            Self::ControlPlane(_) => None,
        }
    }

    /// What a control plane gives, into the recorder and onto a page.
    pub(crate) fn write(&self, page: &mut Page<'_>) {
        if let Self::ControlPlane(status) = self {
            let status = status.borrow().clone();
            record(&status);
            write_names(page, &status);
        }
    }
}

pub(crate) fn describe() {
    describe_gauge!(CONNECTED, "1 while the control plane's stream stands.");
    describe_gauge!(AGE, "How old the mesh state may be: 0 while the control plane's stream stands.");
    describe_counter!(STREAMS, "Streams to the control plane that were opened.");
    describe_counter!(FAILURES, "Streams that could not be opened or ended by an error.");
    describe_counter!(RESPONSES, "Responses of the control plane, by type of resource.");
    describe_counter!(REFUSED, "Responses of which some resource was refused (NACK), by type of resource.");
    describe_gauge!(OBJECTS, "What the control plane has given, by kind.");
    describe_gauge!(ON_DEMAND, "Names that are asked of the control plane, since somebody needed them.");
    describe_gauge!(
        REJECTED,
        "A resource that cannot be used as the control plane sent it last; /state says why."
    );
    describe_gauge!(
        VERSION,
        "1, with what the control plane calls its state as a label, by type of resource."
    );
}

fn record(status: &ControlPlaneStatus) {
    gauge!(CONNECTED).set(if status.connected { 1.0 } else { 0.0 });
    if let Some(age) = status.age(SystemTime::now()) {
        gauge!(AGE).set(age.as_secs_f64());
    }
    counter!(STREAMS).absolute(status.streams);
    counter!(FAILURES).absolute(status.failures);
    for (&kind, of_type) in &status.types {
        counter!(RESPONSES, "type" => kind).absolute(of_type.responses);
        counter!(REFUSED, "type" => kind).absolute(of_type.refused);
    }
    for (&kind, &count) in &status.objects {
        gauge!(OBJECTS, "kind" => kind).set(as_float(count));
    }
    if let Some(names) = status.on_demand {
        gauge!(ON_DEMAND).set(as_float(names));
    }
}

/// Not recorded, as they come and go by name.
fn write_names(page: &mut Page<'_>, status: &ControlPlaneStatus) {
    let short = |text: &str| text.chars().take(MAX_NAME_CHARS).collect::<String>();
    let rejected: Vec<_> =
        status.rejected.iter().map(|resource| (resource.kind, short(&resource.name))).collect();
    page.gauges(
        REJECTED,
        rejected.iter().map(|(kind, name)| ([("type", *kind), ("resource", name.as_str())], 1.0)),
    );
    let versions: Vec<_> =
        status.types.iter().map(|(&kind, of_type)| (kind, short(&of_type.version))).collect();
    page.gauges(
        VERSION,
        versions.iter().map(|(kind, version)| ([("type", *kind), ("version", version.as_str())], 1.0)),
    );
}
