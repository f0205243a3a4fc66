//! What whoever deploys the daemon by Istio's DaemonSet is told when something is missing.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::process::Command;

const POD: [(&str, &str); 4] = [
    ("NODE_NAME", "node1"),
    ("POD_NAME", "ztunnel-abcde"),
    ("POD_NAMESPACE", "istio-system"),
    ("INSTANCE_IP", "10.0.0.7"),
];

/// Whether it started, and what it said.
fn proxy(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ztunnel"));
    command.arg("proxy").args(arguments).env_clear().envs(environment.iter().copied());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// If it started all the same, it would serve pods under a wrong name, or with nobody to sign for them.
#[test]
fn what_is_missing_is_said_with_where_it_belongs() {
    let (started, said) = proxy(&["ztunnel"], &[]);
    assert!(!started && said.contains("POD_NAME is not set") && said.contains("downward API"), "{said}");
    let fake: Vec<_> = POD.into_iter().chain([("FAKE_CA", "true")]).collect();
    let (started, said) = proxy(&["ztunnel"], &fake);
    assert!(!started && said.contains("FAKE_CA=true") && said.contains("caKey"), "{said}");
    let dedicated: Vec<_> = POD.into_iter().chain([("PROXY_MODE", "dedicated")]).collect();
    let (started, said) = proxy(&["ztunnel"], &dedicated);
    assert!(!started && said.contains("PROXY_MODE") && said.contains("shared"), "{said}");
}

#[test]
fn there_is_no_other_proxy_than_ztunnel() {
    for arguments in [&["sidecar"][..], &["router"], &[]] {
        let (started, said) = proxy(arguments, &POD);
        assert!(!started && said.contains("ztunnel"), "{arguments:?}: {said}");
    }
}
