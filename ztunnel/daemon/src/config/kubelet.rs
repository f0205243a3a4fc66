//! `kubeletCgroup`: where the kubelet is, if nobody says it.

use std::path::{Path, PathBuf};

/// As distributions start it: kubeadm and most others, kind, those of Amazon, Talos, and without systemd. Only root makes
/// such cgroups, and no pod is in them.
const USUAL: [&str; 5] = [
    "system.slice/kubelet.service",
    "kubelet.slice/kubelet.service",
    "runtime.slice/kubelet.service",
    "podruntime/kubelet",
    "kubelet",
];

/// The first of the usual ones that is there. Not where one service holds more than the kubelet, as with k3s: that is for
/// somebody to decide.
pub(super) fn find(cgroup_root: &Path) -> Option<PathBuf> {
    USUAL.iter().map(|name| cgroup_root.join(name)).find(|path| path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_is_found_where_it_usually_is() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(find(root.path()), None);
        // k3s: whatever else it starts would pass for a probe.
        std::fs::create_dir_all(root.path().join("system.slice/k3s.service")).unwrap();
        assert_eq!(find(root.path()), None);
        for name in USUAL.iter().rev() {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
            assert_eq!(find(root.path()), Some(root.path().join(name)));
        }
    }
}
