//! What the parts agree on among themselves: names, ports, accounts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{find, rendered, variants};

/// A selector that matches no pod makes a Service, a budget or a policy that does nothing.
#[test]
fn every_selector_finds_its_pods() {
    for (variant, values) in variants() {
        let documents = rendered(&values);
        let pods: Vec<&Value> = documents
            .iter()
            .map(|d| &d["spec"]["template"]["metadata"]["labels"])
            .filter(|l| l.is_object())
            .collect();
        for document in &documents {
            let selector = match document["kind"].as_str().unwrap() {
                "Service" => &document["spec"]["selector"],
                "DaemonSet" | "Deployment" | "PodDisruptionBudget" | "PodMonitor" => {
                    &document["spec"]["selector"]["matchLabels"]
                }
                _ => continue,
            };
            let wanted = selector.as_object().unwrap();
            let found =
                pods.iter().filter(|labels| wanted.iter().all(|(key, value)| &labels[key] == value)).count();
            assert_eq!(found, 1, "{variant}: {} {}", document["kind"], document["metadata"]["name"]);
        }
    }
}

/// A probe or a service that names a port of nobody never answers.
#[test]
fn every_named_port_is_there() {
    for (_, values) in variants() {
        for document in rendered(&values) {
            for container in
                document["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten()
            {
                let ports: Vec<_> =
                    container["ports"].as_array().into_iter().flatten().map(|port| &port["name"]).collect();
                for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                    let port = &container[probe]["httpGet"]["port"];
                    assert!(port.is_null() || ports.contains(&port), "{}: {probe} {port}", container["name"]);
                }
            }
        }
    }
}

/// Every account that a pod runs as exists, and every volume that is mounted too.
#[test]
fn accounts_and_volumes_exist() {
    for (variant, values) in variants() {
        let documents = rendered(&values);
        for document in &documents {
            let pod = &document["spec"]["template"]["spec"];
            if pod.is_null() {
                continue;
            }
            find(&documents, "ServiceAccount", pod["serviceAccountName"].as_str().unwrap());
            let names = |list: &Value| -> BTreeSet<String> {
                let all = list.as_array().into_iter().flatten();
                all.filter_map(|item| item["name"].as_str().map(str::to_owned)).collect()
            };
            let volumes = names(&pod["volumes"]);
            let lists = ["initContainers", "containers"].map(|key| pod[key].as_array());
            let containers = lists.into_iter().flatten().flatten();
            let mounted: BTreeSet<_> =
                containers.flat_map(|container| names(&container["volumeMounts"])).collect();
            assert_eq!(volumes, mounted, "{variant}: {}", document["metadata"]["name"]);
        }
    }
}

/// The daemons ask the controller's service, by a token for the audience that it reviews.
#[test]
fn the_daemons_know_where_the_controller_is() {
    let documents = rendered(&json!({"daemon": {"config": {"controlPlane": {"mode": "onDemand"}}}}));
    let service = find(&documents, "Service", "ztunnel-controller");
    let config =
        chart::parse(find(&documents, "ConfigMap", "ztunnel")["data"]["config.yaml"].as_str().unwrap())
            .unwrap();
    let expected = format!(
        "{}.{}.svc:{}",
        service["metadata"]["name"].as_str().unwrap(),
        service["metadata"]["namespace"].as_str().unwrap(),
        service["spec"]["ports"][0]["port"]
    );
    assert_eq!(config["controlPlane"]["address"], json!(expected));
    assert_eq!(config["controlPlane"]["mode"], "onDemand", "what a user adds is merged");
}
