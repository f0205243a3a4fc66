//! Nodes: kernel, processor, runtime, kubelet.

use kubernetes::{k8s_openapi::api::core::v1::Node, kube::ResourceExt};

use super::{
    look::Found,
    report::{Level, Report},
};

/// Of which all that is needed is known to be there. Vendors' older ones may have it too: `ztunnel check` on the node tells.
const KERNEL: (u64, u64) = (6, 1);
/// Of which the API server has a field for AppArmor, without which the daemon cannot work where that is on.
const KUBELET: (u64, u64) = (1, 30);

pub(super) fn judge(found: &Found, report: &mut Report) {
    let before = report.findings.len();
    let linux = found.nodes.iter().filter(|node| system(node) == "linux");
    let count = linux.clone().inspect(|node| judge_one(node, report)).count();
    if count > 0 && report.findings.len() == before {
        report.add(
            Level::Good,
            "nodes",
            format!("{count}, all with kernel {}.{} or newer", KERNEL.0, KERNEL.1),
        );
    }
    for node in found.nodes.iter().filter(|node| system(node) != "linux") {
        let text = format!("{} is not in the mesh", system(node));
        report.add(Level::Warning, about(node), text);
    }
}

fn judge_one(node: &Node, report: &mut Report) {
    let Some(info) = node.status.as_ref().and_then(|status| status.node_info.as_ref()) else {
        report.add(Level::Unknown, about(node), "it tells nothing of itself");
        return;
    };
    if version(&info.kernel_version).is_none_or(|kernel| kernel < KERNEL) {
        let text = format!(
            "kernel {}: older than {}.{}, so it may lack something; run `ztunnel check` there",
            info.kernel_version, KERNEL.0, KERNEL.1
        );
        report.add(Level::Warning, about(node), text);
    }
    if !matches!(info.architecture.as_str(), "amd64" | "arm64") {
        let text = format!("no program of ours runs on its processors ({})", info.architecture);
        report.add(Level::Problem, about(node), text);
    }
    if version(info.kubelet_version.trim_start_matches('v')).is_none_or(|kubelet| kubelet < KUBELET) {
        let text =
            format!("kubelet {}: Kubernetes {}.{} is needed", info.kubelet_version, KUBELET.0, KUBELET.1);
        report.add(Level::Problem, about(node), text);
    }
    if info.container_runtime_version.starts_with("docker:") {
        let text = "its pods are Docker's, which was never tried; containerd and CRI-O are known";
        report.add(Level::Warning, about(node), text);
    }
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    if conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status != "True") {
        report.add(Level::Warning, about(node), "it is not ready");
    }
}

fn about(node: &Node) -> String {
    format!("node/{}", node.name_any())
}

fn system(node: &Node) -> &str {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.map_or("linux", |info| info.operating_system.as_str())
}

/// The first two numbers.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(kernel: &str, architecture: &str, kubelet: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "one" },
            "status": { "nodeInfo": {
                "kernelVersion": kernel, "architecture": architecture, "kubeletVersion": kubelet,
                "operatingSystem": "linux", "containerRuntimeVersion": "containerd://1.7.0",
                "bootID": "", "kubeProxyVersion": "", "machineID": "", "osImage": "", "systemUUID": "",
            }},
        }))
        .unwrap()
    }

    fn judged(node: Node) -> Report {
        let mut report = Report::default();
        judge(&Found { nodes: vec![node], ..Found::default() }, &mut report);
        report
    }

    #[test]
    fn a_node_that_will_do_is_good_and_others_are_named() {
        let good = judged(node("6.8.0-31-generic", "amd64", "v1.31.2"));
        assert!(good.has(Level::Good, "nodes", "1, all"), "{good:?}");
        let old = judged(node("5.14.0-427.el9", "arm64", "v1.30.0+k3s1"));
        assert!(old.has(Level::Warning, "node/one", "run `ztunnel check` there"), "{old:?}");
        assert_eq!(old.findings.len(), 1, "{old:?}");
        assert!(judged(node("6.8.0", "riscv64", "v1.30.0")).has(Level::Problem, "node/one", "riscv64"));
        assert!(judged(node("6.8.0", "amd64", "v1.29.9")).has(Level::Problem, "node/one", "1.30 is needed"));
        assert!(judged(node("nonsense", "amd64", "v1.30.0")).has(Level::Warning, "node/one", "nonsense"));
    }
}
