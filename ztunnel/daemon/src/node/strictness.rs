//! What the kernel is told of a pod. Whether it is strict depends on the mesh's settings too, so it changes with them.

use std::net::IpAddr;

use control::LocalPod;
use model::{MtlsMode, authorize::is_restricted, mtls};
use redirect::{FailMode, PodSpec};

use super::{Enrolled, Node};

impl Node {
    pub(super) fn spec_of(&self, pod: &LocalPod) -> PodSpec {
        let v4 = pod.ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let v6 = pod.ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        PodSpec {
            uid: pod.uid.clone(),
            netns: pod.netns.clone(),
            netns_identity: pod.netns_identity,
            v4,
            v6,
            fail_mode: match pod.fail_mode {
                control::FailMode::Closed => FailMode::Closed,
                control::FailMode::Open => FailMode::Open,
            },
            strict: self.is_strict(pod),
            excluded_outbound: pod.exclude_outbound_ports.clone(),
            excluded_inbound: pod.exclude_inbound_ports.clone(),
        }
    }

    /// Tells the kernel of pods that turned strict, or are no longer.
    pub(super) fn keep_strictness(&self) {
        let all: Vec<_> = self.enrolled.lock().values().cloned().collect();
        for enrolled in all {
            let spec = self.spec_of(&enrolled.desired);
            if spec.strict == enrolled.strict || self.is_superseded() {
                continue;
            }
            match self.parts.redirector.update(&enrolled.pod, &spec) {
                Ok(()) => self.keep(Enrolled { strict: spec.strict, ..enrolled }),
                Err(error) => {
                    tracing::error!(pod = %spec.uid, reason = error.reason(), %error, "strictness cannot be changed");
                }
            }
        }
    }

    /// Nor may a policy be gone around at an address that the mesh does not know. What a control plane calls strict is one,
    /// too: it denies whoever has no identity.
    fn is_strict(&self, pod: &LocalPod) -> bool {
        let snapshot = self.parts.snapshot.load();
        match snapshot.workload(&pod.uid) {
            Some(workload) => {
                mtls::is_strict(&snapshot, workload, pod.mtls) || is_restricted(&snapshot, workload)
            }
            None => pod.mtls == Some(MtlsMode::Strict),
        }
    }
}
