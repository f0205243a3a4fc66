//! Our rendering against helm's own.

use std::{fs, process::Command};

use chart::{Chart, NAMESPACE, RELEASE, parse, split};
use serde_json::Value;

use super::{rendered, variants};

fn key(document: &Value) -> String {
    format!("{} {} {}", document["kind"], document["metadata"]["namespace"], document["metadata"]["name"])
}

/// Text of YAML within YAML may be in other quotes; what it says may not differ. Its checksum is of the text.
fn by_meaning(document: &mut Value) {
    if let Some(Value::String(text)) = document.pointer("/data/config.yaml") {
        document["data"]["config.yaml"] = parse(text).unwrap();
    }
    if let Some(Value::Object(annotations)) = document.pointer_mut("/spec/template/metadata/annotations") {
        annotations.remove("checksum/config");
    }
}

/// With `HELM` naming a helm 3, every variant must come out the same. Without it there is nothing to compare with, and
/// the test says so; the workflow of the public forge has one.
#[test]
fn helm_renders_the_same() {
    let Some(helm) = std::env::var_os("HELM") else {
        eprintln!("not compared: HELM names no helm");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("values.yaml");
    for (variant, values) in variants() {
        fs::write(&file, values.to_string()).unwrap();
        let answer = Command::new(&helm)
            .args(["template", RELEASE, "deploy/helm/ztunnel", "--namespace", NAMESPACE, "--include-crds"])
            .args(["--kube-version", "v1.33.0", "--values"])
            .arg(&file)
            .current_dir(chart::root())
            .output()
            .unwrap();
        assert!(answer.status.success(), "{variant}: {}", String::from_utf8_lossy(&answer.stderr));
        let mut theirs: Vec<_> = split(&String::from_utf8(answer.stdout).unwrap())
            .iter()
            .map(|text| parse(text).unwrap())
            .collect();
        let mut ours = rendered(&values);
        for document in ours.iter_mut().chain(&mut theirs) {
            by_meaning(document);
        }
        ours.sort_by_key(key);
        theirs.sort_by_key(key);
        assert_eq!(ours, theirs, "{variant}");
    }
}

/// A function or a field that is misspelt must not render as nothing.
#[test]
fn an_unknown_function_fails_the_rendering() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for folder in ["templates", "crds"] {
        fs::create_dir(at(folder)).unwrap();
    }
    for (name, text) in [
        ("Chart.yaml", "name: x\nversion: 1.0.0\nappVersion: 1.0.0\n"),
        ("values.yaml", "a: 1\n"),
        ("crds/a.yaml", "kind: A\n"),
        ("templates/a.yaml", "a: {{ .Values.a | frobnicate }}\n"),
    ] {
        fs::write(at(name), text).unwrap();
    }
    let error = Chart::open(directory.path()).unwrap().render(&serde_json::json!({})).unwrap_err();
    assert!(format!("{error:#}").contains("frobnicate"), "{error:#}");
}
