//! The examples under `deploy/` are what a newcomer copies: they must load.

use std::{path::PathBuf, sync::Arc};

use control::{PodsFile, StateFile};
use model::SharedSnapshot;

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(name)
}

#[tokio::test]
async fn the_mesh_and_the_pods_of_the_examples_load_and_belong_together() {
    let snapshot = Arc::new(SharedSnapshot::default());
    let state =
        StateFile::start(&example("state.yaml"), "cluster.local".parse().unwrap(), Arc::clone(&snapshot))
            .await
            .unwrap();
    assert_eq!(state.status().borrow().warnings, Vec::<String>::new());
    let pods = PodsFile::start(&example("pods.yaml")).await.unwrap().pods();
    for pod in pods.borrow().iter() {
        let snapshot = snapshot.load();
        let workload = snapshot.workload(&pod.uid).expect("a pod of the examples is a workload of theirs");
        assert_eq!(workload.workload_ips, pod.ips);
    }
}

/// Every key of the example is one the daemon knows: it gets as far as the files that are not there.
#[test]
fn the_configuration_of_the_examples_is_understood() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ztunnel"))
        .args(["run", "--state-file", "/nonexistent/state.yaml", "--config"])
        .arg(example("config.yaml"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("cannot read /nonexistent/state.yaml"), "{error}");
}
