//! The configuration that the chart writes is what the daemon reads.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

use chart::{Chart, parse};
use serde_json::{Value, json};

/// What `ztunnel validate` says of the ConfigMap that the chart renders for these values.
fn validated(values: &Value) -> (bool, String) {
    let documents = Chart::ours().unwrap().render(values).unwrap();
    let documents = documents.iter().map(|text| parse(text).unwrap());
    let map = documents.into_iter().find(|d| d["kind"] == "ConfigMap" && d["metadata"]["name"] == "ztunnel");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, map.unwrap()["data"]["config.yaml"].as_str().unwrap()).unwrap();
    // As the DaemonSet has it, by the downward API.
    let mut validate = Command::new(env!("CARGO_BIN_EXE_ztunnel"));
    let answer = validate.env("ZTUNNEL_NODE_NAME", "node1").arg("validate").arg(&file).output().unwrap();
    let said = [answer.stdout, answer.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (answer.status.success(), said.concat())
}

/// A key that the chart writes and the daemon does not know would stop every daemon at its start.
#[test]
fn what_the_chart_writes_is_valid() {
    for values in [
        json!({}),
        json!({"cni": {"enabled": false}, "daemon": {"kubeletCgroup": "none"}}),
        json!({"daemon": {"kubeletCgroup": "system.slice/k3s.service", "cgroupRoot": "/sys/fs/cgroup/unified"}}),
        json!({"trustDomain": "example.org", "cni": {"exemptNamespaces": ["a", "b"]}, "daemon": {
            "config": {"accessLog": {"mode": "errors"}, "controlPlane": {"mode": "onDemand"}, "sameNode": "direct"},
        }}),
    ] {
        let (is_valid, said) = validated(&values);
        assert!(is_valid, "{values}: {said}");
    }
}

/// The test above must be able to fail.
#[test]
fn what_a_user_adds_and_the_daemon_does_not_know_is_found() {
    let (is_valid, said) = validated(&json!({"daemon": {"config": {"accesslog": {"mode": "errors"}}}}));
    assert!(!is_valid && said.contains("accesslog"), "{said}");
}
