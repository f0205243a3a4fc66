//! Each manifest is what the API server takes: read as the type that it says it is, and written back unchanged, so that
//! a misspelt or misplaced field is found.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        batch::v1::Job,
        core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{find, rendered, variants};

fn through<T: DeserializeOwned + Serialize>(document: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// `None` for kinds that are not Kubernetes' own.
fn typed(document: &Value) -> Option<Result<Value, String>> {
    let words = [document["apiVersion"].as_str()?, document["kind"].as_str()?];
    Some(match words {
        ["apps/v1", "DaemonSet"] => through::<DaemonSet>(document),
        ["apps/v1", "Deployment"] => through::<Deployment>(document),
        ["batch/v1", "Job"] => through::<Job>(document),
        ["v1", "ConfigMap"] => through::<ConfigMap>(document),
        ["v1", "Namespace"] => through::<Namespace>(document),
        ["v1", "Service"] => through::<Service>(document),
        ["v1", "ServiceAccount"] => through::<ServiceAccount>(document),
        ["networking.k8s.io/v1", "NetworkPolicy"] => through::<NetworkPolicy>(document),
        ["policy/v1", "PodDisruptionBudget"] => through::<PodDisruptionBudget>(document),
        ["rbac.authorization.k8s.io/v1", "ClusterRole"] => through::<ClusterRole>(document),
        ["rbac.authorization.k8s.io/v1", "ClusterRoleBinding"] => through::<ClusterRoleBinding>(document),
        ["rbac.authorization.k8s.io/v1", "Role"] => through::<Role>(document),
        ["rbac.authorization.k8s.io/v1", "RoleBinding"] => through::<RoleBinding>(document),
        ["apiextensions.k8s.io/v1", "CustomResourceDefinition"] => {
            through::<CustomResourceDefinition>(document)
        }
        ["monitoring.coreos.com/v1", "PodMonitor" | "PrometheusRule"] => return None,
        _ => Err("a kind that no test knows".to_owned()),
    })
}

#[test]
fn every_manifest_has_the_fields_of_its_kind_and_no_others() {
    for (variant, values) in variants() {
        for document in rendered(&values) {
            let name = format!("{variant}: {} {}", document["kind"], document["metadata"]["name"]);
            let Some(answer) = typed(&document) else { continue };
            assert_eq!(answer.unwrap_or_else(|error| panic!("{name}: {error}")), document, "{name}");
        }
    }
}

/// The test above must be able to fail.
#[test]
fn a_field_in_the_wrong_place_is_found() {
    let wrong =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"replicas": 2}});
    assert_ne!(typed(&wrong).unwrap().unwrap(), wrong);
    assert!(typed(&json!({"apiVersion": "v2", "kind": "Service"})).unwrap().is_err());
}

#[test]
fn no_two_manifests_are_the_same_object() {
    for (variant, values) in variants() {
        let documents = rendered(&values);
        let mut keys: Vec<_> = documents
            .iter()
            .map(|d| format!("{} {} {}", d["kind"], d["metadata"]["namespace"], d["metadata"]["name"]))
            .collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count, "{variant}");
    }
}

/// What is committed is what the chart says today; `cargo xtask manifest` writes it.
#[test]
fn the_plain_manifest_is_the_chart_s() {
    let committed = std::fs::read_to_string(chart::root().join("deploy/ztunnel.yaml")).unwrap();
    assert!(committed == chart::manifest().unwrap(), "deploy/ztunnel.yaml is old; run: cargo xtask manifest");
}

/// A rolling update that takes the old daemon away first would leave pods without one.
#[test]
fn a_newer_daemon_is_there_before_the_older_goes() {
    let documents = rendered(&json!({}));
    let daemon = &find(&documents, "DaemonSet", "ztunnel")["spec"];
    assert_eq!(daemon["updateStrategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    let pod = &daemon["template"]["spec"];
    // Two at once on one node: neither may claim what is the node's alone.
    assert!(pod["hostNetwork"].is_null());
    for port in pod["containers"][0]["ports"].as_array().unwrap() {
        assert!(port["hostPort"].is_null(), "{port}");
    }
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 30, "less than drainDeadline");
}

#[test]
fn no_container_is_privileged_or_may_write_to_its_image() {
    for (variant, values) in variants() {
        for document in rendered(&values) {
            let pod = &document["spec"]["template"]["spec"];
            let lists = ["initContainers", "containers"].map(|key| pod[key].as_array());
            for container in lists.into_iter().flatten().flatten() {
                let name = format!("{variant}: {} {}", document["metadata"]["name"], container["name"]);
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                // The API server refuses the one without the other.
                let enters = security["capabilities"]["add"]
                    .as_array()
                    .is_some_and(|add| add.contains(&json!("SYS_ADMIN")));
                assert_eq!(security["allowPrivilegeEscalation"], enters, "{name}");
                assert_ne!(security["privileged"], true, "{name}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
                assert!(!security["seccompProfile"]["type"].is_null(), "{name}");
            }
        }
    }
}

/// The list that docs/SECURITY.md gives reasons for is the list that the daemon has: to the letter, in both.
#[test]
fn the_daemon_s_capabilities_are_those_of_the_documentation() {
    let text = std::fs::read_to_string(chart::root().join("docs/SECURITY.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix("`CAP_")?.strip_suffix('`')?;
        Some((name.to_owned(), cells.get(2)?.contains("istio")))
    };
    let documented: BTreeSet<_> = text.lines().filter_map(row).collect();
    assert_eq!(documented.len(), 3, "the table was not understood: {documented:?}");
    for (mode, is_needed) in
        [("standalone", &(|_| true) as &dyn Fn(bool) -> bool), ("istio", &|in_istio| in_istio)]
    {
        let documents = rendered(&json!({ "mode": mode }));
        let added = |kind: &str, list: &str, name: &str| {
            let container = &find(&documents, kind, name)["spec"]["template"]["spec"][list][0];
            let add = container["securityContext"]["capabilities"]["add"].as_array().unwrap();
            add.iter().map(|name| name.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        let needed: BTreeSet<_> = documented
            .iter()
            .filter(|(_, in_istio)| is_needed(*in_istio))
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(added("DaemonSet", "containers", "ztunnel"), needed, "{mode}");
        if mode == "standalone" {
            assert_eq!(added("DaemonSet", "initContainers", "ztunnel-uninstall"), needed);
        }
    }
}

/// The runtime refuses to make a container whose profile is not there.
#[test]
fn our_seccomp_profile_is_written_where_the_daemon_s_container_wants_it() {
    let values =
        json!({"daemon": {"installSeccompProfile": true, "kubeletDirectory": "/var/lib/k0s/kubelet"}});
    let documents = rendered(&values);
    let pod = &find(&documents, "DaemonSet", "ztunnel")["spec"]["template"]["spec"];
    let (writer, daemon) = (&pod["initContainers"][0], &pod["containers"][0]);
    let profile = daemon["securityContext"]["seccompProfile"]["localhostProfile"].as_str().unwrap();
    let mounted = writer["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert_eq!(writer["args"], json!(["seccomp-profile", format!("--write={mounted}/{profile}")]));
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "seccomp").unwrap();
    assert_eq!(volume["hostPath"]["path"], "/var/lib/k0s/kubelet/seccomp");
    assert!(
        rendered(&json!({})).iter().all(|d| !d.to_string().contains("localhostProfile")),
        "only if asked for"
    );
}

/// helm would say it is done while pods are cut off.
#[test]
fn uninstalling_goes_where_the_daemons_were() {
    let values = json!({"daemon": {
        "config": {"bpfDir": "/sys/fs/bpf/other"}, "nodeSelector": {"pool": "a"}, "terminationGracePeriodSeconds": 600,
    }, "cni": {"enabled": false}});
    let documents = rendered(&values);
    let pod = &find(&documents, "DaemonSet", "ztunnel-uninstall")["spec"]["template"]["spec"];
    let arguments = pod["initContainers"][0]["args"].as_array().unwrap();
    assert!(arguments.contains(&json!("--bpf-dir=/sys/fs/bpf/other")), "{arguments:?}");
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    let mounts = pod["initContainers"][0]["volumeMounts"].to_string();
    assert!(mounts.contains("cni-conf") && mounts.contains("cni-bin"), "the plugin may be there from before");
    let deadline =
        find(&documents, "Job", "ztunnel-uninstall")["spec"]["activeDeadlineSeconds"].as_u64().unwrap();
    assert!(deadline > 600, "daemons may take that long to end");
}

/// What is dangerous is said where somebody reads it.
#[test]
fn helm_s_notes_warn_of_what_is_switched_off() {
    let chart = chart::Chart::ours().unwrap();
    let notes = |values: Value| chart.notes(&values).unwrap();
    assert!(!notes(json!({})).contains("WARNING"));
    assert!(notes(json!({"daemon": {"kubeletCgroup": "none"}})).contains("FAIL THEIR PROBES"));
    assert!(notes(json!({"cni": {"enabled": false}})).contains("before they are enrolled"));
    assert!(notes(json!({"uninstall": {"enabled": false}})).contains("unenrol --all"));
    assert!(notes(json!({"mode": "istio"})).contains("docs/ISTIO.md"));
}

/// Whoever can read all Secrets or make roles owns the cluster.
#[test]
fn no_role_reads_secrets_of_other_names_or_has_wildcards() {
    for (variant, values) in variants() {
        for document in rendered(&values).iter().filter(|d| d["kind"] == "ClusterRole" || d["kind"] == "Role")
        {
            let name = format!("{variant}: {} {}", document["kind"], document["metadata"]["name"]);
            for rule in document["rules"].as_array().unwrap() {
                let has = |key: &str, word: &str| {
                    rule[key].as_array().is_some_and(|list| list.contains(&json!(word)))
                };
                for key in ["apiGroups", "resources", "verbs"] {
                    assert!(!has(key, "*"), "{name}: {rule}");
                }
                let bounded = !rule["resourceNames"].is_null() || rule["verbs"] == json!(["create"]);
                assert!(
                    !has("resources", "secrets") || (bounded && document["kind"] == "Role"),
                    "{name}: {rule}"
                );
            }
        }
    }
}

#[test]
fn mode_istio_has_no_controller_and_takes_istio_s_environment() {
    let documents = rendered(&json!({"mode": "istio"}));
    assert!(documents.iter().all(|d| d["kind"] != "Deployment" && d["kind"] != "Secret"));
    let container = &find(&documents, "DaemonSet", "ztunnel")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["proxy", "ztunnel"]));
    let names: Vec<_> =
        container["env"].as_array().unwrap().iter().filter_map(|e| e["name"].as_str()).collect();
    for needed in
        ["XDS_ADDRESS", "CA_ADDRESS", "NODE_NAME", "POD_NAME", "POD_NAMESPACE", "INSTANCE_IP", "INPOD_UDS"]
    {
        assert!(names.contains(&needed), "{needed} is missing");
    }
}
