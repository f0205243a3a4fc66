//! The pods of this node that are to be enrolled, from a file.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use model::{WorkloadUid, authorize::MtlsMode};
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::file::{FileError, FileStatus, Loaded, Place, follow, parse};

#[cfg(test)]
mod tests;

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalPod {
    pub uid: WorkloadUid,
    /// Any path that opens as a network namespace.
    pub netns: PathBuf,
    /// Device and inode of the namespace, where they are known: the path may name another one by the time it is opened.
    #[serde(skip)]
    pub netns_identity: Option<(u64, u64)>,
    /// What the pod runs as, if that is known here: should the mesh's state differ, the pod has no identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// One or two, at most one of each family.
    pub ips: Vec<IpAddr>,
    #[serde(default)]
    pub fail_mode: FailMode,
    /// What the node asks for this pod; `None` leaves it to the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsMode>,
    /// Destination ports that are never captured.
    #[serde(default)]
    pub exclude_outbound_ports: Vec<u16>,
    #[serde(default)]
    pub exclude_inbound_ports: Vec<u16>,
}

/// What becomes of a pod's connections while no daemon serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// They are refused.
    #[default]
    Closed,
    /// They pass, in plaintext.
    Open,
}

/// The list that the file holds, for as long as this lives.
pub struct PodsFile {
    pods: watch::Receiver<Arc<Vec<LocalPod>>>,
    status: watch::Receiver<FileStatus>,
    _watching: AbortOnDropHandle<()>,
}

impl PodsFile {
    /// Loads `path`, which must be good, and follows its changes from then on.
    pub async fn start(path: &Path) -> Result<Self, FileError> {
        let (sender, pods) = watch::channel(Arc::default());
        let load = move |path: &Path, text: &str| load(path, text, &sender);
        let (status, watching) = follow(path, Arc::new(load)).await?;
        Ok(Self { pods, status, _watching: watching })
    }

    /// The pods that should be enrolled now, in the file's order.
    pub fn pods(&self) -> watch::Receiver<Arc<Vec<LocalPod>>> {
        self.pods.clone()
    }

    pub fn status(&self) -> watch::Receiver<FileStatus> {
        self.status.clone()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodsText {
    #[serde(default)]
    pods: Vec<Spanned<LocalPod>>,
}

pub(crate) fn load(
    path: &Path,
    text: &str,
    sender: &watch::Sender<Arc<Vec<LocalPod>>>,
) -> Result<Loaded, FileError> {
    let text: PodsText = parse(path, text)?;
    let mut taken = HashMap::new();
    let mut pods = Vec::with_capacity(text.pods.len());
    for Spanned { value: pod, referenced, .. } in text.pods {
        let place = Place { path, location: referenced };
        check(&pod).map_err(|message| place.error(format!("pod `{}`: {message}", pod.uid)))?;
        for claim in claims(&pod) {
            if let Some(owner) = taken.insert(claim.clone(), pod.uid.clone()) {
                return Err(place.error(format!("pod `{}`: {claim} is that of pod `{owner}`", pod.uid)));
            }
        }
        pods.push(pod);
    }
    let count = pods.len();
    let changed = sender.send_if_modified(|current| {
        let differs = **current != pods;
        *current = Arc::new(pods);
        differs
    });
    let objects = [("pods", count)].into();
    Ok(Loaded { objects, changed: usize::from(changed), ..Loaded::default() })
}

/// What no two pods can share.
fn claims(pod: &LocalPod) -> impl Iterator<Item = String> + '_ {
    let own = [format!("the uid `{}`", pod.uid), format!("the netns `{}`", pod.netns.display())];
    own.into_iter().chain(pod.ips.iter().map(|ip| format!("the address `{ip}`")))
}

fn check(pod: &LocalPod) -> Result<(), String> {
    let families = |v4| pod.ips.iter().filter(|ip| ip.is_ipv4() == v4).count();
    if pod.uid.as_str().is_empty() {
        return Err("the uid must not be empty".to_owned());
    }
    if !pod.netns.is_absolute() {
        return Err(format!("netns: expected an absolute path, found `{}`", pod.netns.display()));
    }
    if pod.ips.is_empty() || families(true) > 1 || families(false) > 1 {
        return Err("ips: expected one address, or one of each family".to_owned());
    }
    if pod.mtls == Some(MtlsMode::Disable) {
        return Err("mtls: `disable` must be known to all nodes, or they would send what this one refuses; \
                    say it in the mesh's settings"
            .to_owned());
    }
    if let Some(ip) = pod.ips.iter().find(|ip| !is_a_pods(**ip)) {
        return Err(format!("ips: `{ip}` cannot be a pod's address"));
    }
    if pod.exclude_outbound_ports.contains(&0) || pod.exclude_inbound_ports.contains(&0) {
        return Err("expected ports from 1 to 65535, found 0".to_owned());
    }
    Ok(())
}

/// Traffic from and to other addresses never leaves a pod, or is never captured.
fn is_a_pods(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}
