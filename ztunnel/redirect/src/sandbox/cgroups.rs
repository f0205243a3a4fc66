//! Which pod a process belongs to, by the cgroups that the kubelet made for it. PURE.
//!
//! ```text
//! systemd    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, _ for ->.slice/cri-containerd-<id>.scope
//! cgroupfs   /kubepods/burstable/pod<uid>/<id>
//! ```
//!
//! Version 1 has a line for each hierarchy, version 2 one, a hybrid both. Read from inside another cgroup namespace, as a
//! daemon in a pod does, a path begins with `..` for each level that is not shown.

/// The pod that the kubelet put the process into: of each path the outermost name counts, as a pod may make cgroups of
/// any name below its own. `None` if no line names one, or if two lines name different ones.
pub fn pod_of(list: &str) -> Option<String> {
    let mut found = None;
    // `<hierarchy>:<controllers>:<path>`; the path may have colons.
    for path in list.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        let Some(pod) = path.split('/').find_map(pod_in) else { continue };
        match &found {
            Some(other) if *other != pod => return None,
            _ => found = Some(pod),
        }
    }
    found
}

/// The uid in a cgroup's name, if it is one of the kubelet's for a pod.
fn pod_in(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        // With the driver systemd, the names of those above come first, and `-` stands between them.
        Some(slice) if slice.contains("kubepods") => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        Some(_) => return None,
        None => name.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid).then_some(uid)
}

/// A UUID, or the hash that a static pod has for one.
fn is_uid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.bytes().filter(|&byte| byte == b'-').count();
    digits == 32 && text.len() == digits + dashes && matches!(dashes, 0 | 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6d3a9f1e-0c4b-4a55-9a3e-2f4f0b1f6c77";
    const SLICE: &str = "kubepods-burstable-pod6d3a9f1e_0c4b_4a55_9a3e_2f4f0b1f6c77.slice";
    const ID: &str = "8f0e4c2a7b9d1f3e5a6c8b0d2e4f6a8c0b1d3f5e7a9c2b4d6f8e0a1c3b5d7f9e";

    #[track_caller]
    fn names(list: &str) {
        assert_eq!(pod_of(list).as_deref(), Some(UID), "{list}");
    }

    #[test]
    fn every_runtime_and_driver_is_understood() {
        // containerd and CRI-O, systemd, version 2.
        names(&format!("0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope\n"));
        names(&format!("0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope/container\n"));
        names(&format!("0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-conmon-{ID}.scope\n"));
        // Guaranteed pods have no class of their own.
        names(&format!("0::/kubepods.slice/{}/cri-containerd-{ID}.scope\n", SLICE.replace("-burstable", "")));
        // cgroupfs, version 2.
        names(&format!("0::/kubepods/burstable/pod{UID}/{ID}\n"));
        names(&format!("0::/kubepods/pod{UID}/{ID}\n"));
        names(&format!("0::/kubepods/besteffort/pod{UID}/crio-{ID}\n"));
        // A node in a container (kind), which puts the kubelet's under a slice of its own.
        let kind = SLICE.replace("kubepods", "kubelet-kubepods");
        names(&format!(
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/{kind}/cri-containerd-{ID}.scope"
        ));
        names(&format!("0::/kubelet/kubepods/besteffort/pod{UID}/{ID}\n"));
    }

    #[test]
    fn version_1_and_the_hybrid_are_understood() {
        let v1 = format!("/kubepods/burstable/pod{UID}/{ID}");
        names(&format!("12:cpuset:{v1}\n11:memory:{v1}\n10:cpu,cpuacct:{v1}\n1:name=systemd:{v1}\n"));
        names(&format!("4:memory:{v1}\n1:name=systemd:{v1}\n0::/system.slice/containerd.service\n"));
        names(&format!("4:memory:{v1}\n0::/\n"));
        // containerd before 1.6 with systemd and version 1: `slice:prefix:id` as one name.
        names(&format!(
            "9:pids:/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}\n4:memory:{v1}\n"
        ));
        names(&format!("4:memory:{v1} (deleted)\n"));
    }

    /// As a daemon in a pod reads them, from within its own cgroup namespace.
    #[test]
    fn paths_that_begin_above_are_understood() {
        names(&format!("0::/../../../kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope\n"));
        names(&format!("0::/../../{SLICE}/cri-containerd-{ID}.scope\n"));
        names(&format!("0::/../../pod{UID}/{ID}\n"));
        names(&format!("0::/../../../burstable/pod{UID}/{ID}\n"));
    }

    #[test]
    fn a_static_pod_is_named_by_its_hash() {
        let hash = "1c0e5b0c7bd1f4f3a6c1e9a9a0f3d2b4";
        let list = format!("0::/kubepods/burstable/pod{hash}/{ID}\n");
        assert_eq!(pod_of(&list).as_deref(), Some(hash));
    }

    /// If the innermost counted, a pod that makes cgroups would be whichever pod it names.
    #[test]
    fn a_pod_that_names_another_below_its_own_stays_itself() {
        let victim = "ffffffff-0c4b-4a55-9a3e-2f4f0b1f6c77";
        names(&format!("0::/kubepods/burstable/pod{UID}/{ID}/kubepods/pod{victim}/{ID}\n"));
        let slice = SLICE.replace("6d3a9f1e", "ffffffff");
        names(&format!("0::/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope/{slice}/x\n"));
        let disagreeing = format!("4:memory:/kubepods/pod{UID}/{ID}\n0::/kubepods/pod{victim}/{ID}\n");
        assert_eq!(pod_of(&disagreeing), None);
    }

    #[test]
    fn what_is_no_pod_is_none() {
        for list in [
            "",
            "0::/\n",
            "0::/init.scope\n",
            "0::/system.slice/podman.service\n",
            "0::/kubepods.slice\n",
            "0::/kubepods/podcafe/x\n",
            "0::/machine.slice/libpod-6d3a9f1e.scope\n",
            "nonsense",
            "::::",
            "0::",
            "0::/user.slice/my-pod6d3a9f1e_0c4b_4a55_9a3e_2f4f0b1f6c77.slice\n",
        ] {
            assert_eq!(pod_of(list), None, "{list}");
        }
    }
}
