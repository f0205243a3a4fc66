//! Which pods are in the mesh: one decision, for the controller that tells of them, the daemon that discovers them and the
//! CNI plugin that is asked when they start. Pure.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{Container, Pod};

/// On a namespace or a pod: `ambient` or `none`. The pod's own label wins.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const AMBIENT: &str = "ambient";
const NONE: &str = "none";

/// Where the cluster's own pods run; they must start and answer whatever the mesh does.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// A pod made from a file on the node, without the API server.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Left by the injectors of other meshes' sidecars.
const SIDECAR_ANNOTATIONS: [&str; 3] =
    ["sidecar.istio.io/status", "linkerd.io/proxy-version", "consul.hashicorp.com/connect-inject-status"];
const SIDECAR_CONTAINERS: [&str; 5] =
    ["istio-proxy", "linkerd-proxy", "consul-dataplane", "kuma-sidecar", "osm-envoy-sidecar"];

/// The mesh's own namespace, whose pods are never in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub namespace: String,
}

impl Own {
    /// Whether no pod of this namespace is ever in the mesh, whatever is said of it.
    #[must_use]
    pub fn leaves_out(&self, namespace: &str) -> bool {
        SYSTEM_NAMESPACES.contains(&namespace) || (!self.namespace.is_empty() && namespace == self.namespace)
    }
}

/// Why a pod is not in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither it nor its namespace asks for it.
    NotAsked,
    /// Its own label, or that of its namespace, says `none`.
    OptedOut,
    /// The label has a value that is neither; which one is unclear, so nothing is done.
    UnknownMode,
    /// It has no network of its own.
    HostNetwork,
    /// Another mesh's sidecar already takes its connections.
    Sidecar,
    /// It is the cluster's own: of a system namespace, or from a file on the node.
    System,
    /// It is the mesh's own.
    Own,
    /// All its containers have ended for good.
    Ended,
}

impl Refusal {
    /// As it stands in logs and tables.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::OptedOut => "opted_out",
            Self::UnknownMode => "unknown_mode",
            Self::HostNetwork => "host_network",
            Self::Sidecar => "sidecar",
            Self::System => "system",
            Self::Own => "own",
            Self::Ended => "ended",
        }
    }

    /// Whether its labels ask for the mesh all the same: worth telling somebody.
    pub fn is_surprising(self) -> bool {
        match self {
            Self::UnknownMode | Self::HostNetwork | Self::Sidecar | Self::System | Self::Own => true,
            Self::NotAsked | Self::OptedOut | Self::Ended => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotAsked => "neither the pod nor its namespace is labelled istio.io/dataplane-mode=ambient",
            Self::OptedOut => "the label istio.io/dataplane-mode=none",
            Self::UnknownMode => "istio.io/dataplane-mode is neither ambient nor none",
            Self::HostNetwork => "the pod uses its node's network (hostNetwork)",
            Self::Sidecar => "the pod carries another mesh's sidecar",
            Self::System => "the pod is the cluster's own",
            Self::Own => "the pod is the mesh's own",
            Self::Ended => "the pod has ended",
        })
    }
}

/// What of a pod the decision depends on, for those who keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The value of its own label.
    mode: Option<String>,
    /// Why it cannot be in the mesh, whatever the labels say.
    hindrance: Option<Refusal>,
}

impl Facts {
    pub fn of(pod: &Pod, own: &Own) -> Self {
        let labels = pod.metadata.labels.as_ref();
        let mode = labels.and_then(|labels| labels.get(DATAPLANE_MODE)).cloned();
        Self { mode, hindrance: hindrance(pod, own) }
    }

    /// `namespace_mode` is the value of the namespace's label.
    pub fn membership(&self, namespace_mode: Option<&str>) -> Result<(), Refusal> {
        match self.mode.as_deref().or(namespace_mode) {
            Some(AMBIENT) => self.hindrance.map_or(Ok(()), Err),
            Some(NONE) => Err(Refusal::OptedOut),
            None | Some("") => Err(Refusal::NotAsked),
            Some(_) => Err(Refusal::UnknownMode),
        }
    }
}

/// Whether a pod is in the mesh. `namespace` are the labels of its namespace.
pub fn membership(namespace: &BTreeMap<String, String>, pod: &Pod, own: &Own) -> Result<(), Refusal> {
    Facts::of(pod, own).membership(namespace.get(DATAPLANE_MODE).map(String::as_str))
}

fn hindrance(pod: &Pod, own: &Own) -> Option<Refusal> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        Some(Refusal::HostNetwork)
    } else if SYSTEM_NAMESPACES.contains(&namespace) || has_annotation(pod, MIRROR) {
        Some(Refusal::System)
    } else if !own.namespace.is_empty() && namespace == own.namespace {
        Some(Refusal::Own)
    } else if has_sidecar(pod) {
        Some(Refusal::Sidecar)
    } else if has_ended(pod) {
        Some(Refusal::Ended)
    } else {
        None
    }
}

fn has_sidecar(pod: &Pod) -> bool {
    let is_sidecar = |container: &Container| SIDECAR_CONTAINERS.contains(&container.name.as_str());
    SIDECAR_ANNOTATIONS.iter().any(|name| has_annotation(pod, name))
        || pod.spec.as_ref().is_some_and(|spec| {
            let native = spec.init_containers.iter().flatten();
            spec.containers.iter().chain(native).any(is_sidecar)
        })
}

fn has_annotation(pod: &Pod, name: &str) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(name))
}

/// Succeeded or failed: its address may already be another's.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
