//! The plugin as a runtime sees it, with sockets that stand in for a daemon's.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use serde_json::Value;

use super::*;

struct Runtime {
    directory: tempfile::TempDir,
    variables: HashMap<&'static str, String>,
    configuration: Value,
}

impl Runtime {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let variables = HashMap::from([
            ("CNI_COMMAND", "ADD".to_owned()),
            ("CNI_CONTAINERID", "c0ffee".to_owned()),
            ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=till-0;K8S_POD_UID=u-1".to_owned(),
            ),
        ]);
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "ztunnel-cni",
            "socket": directory.path().join("cni.sock"),
            "enrolledNamespaces": directory.path().join("enrolled"),
            "exemptNamespaces": ["kube-system"], "timeoutSeconds": 1,
            "prevResult": { "ips": [{ "address": "10.1.1.7/24" }, { "address": "fd00::7/64" }], "x": 1.0 },
        });
        let runtime = Self { directory, variables, configuration };
        runtime.enrolled(&["shop"]);
        runtime
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("cni.sock")
    }

    fn enrolled(&self, namespaces: &[&str]) {
        let namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
        EnrolledNamespaces { namespaces }.write(&self.directory.path().join("enrolled")).unwrap();
    }

    fn call(&self) -> Result<String, PluginError> {
        run(|name| self.variables.get(name).cloned(), self.configuration.to_string().as_bytes())
    }

    fn refusal(&self) -> Value {
        serde_json::from_str(&self.call().unwrap_err().text("1.0.0")).unwrap()
    }
}

/// Answers each connection with the next of these, and yields the requests.
fn daemon(socket: &Path, answers: &'static [&'static str]) -> JoinHandle<Vec<Request>> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let serve = |answer: &&str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        answers.iter().map(serve).collect()
    })
}

/// If the previous result were parsed and printed anew, what plugins before us say in ways of their own would be lost.
#[test]
fn an_enrolled_pod_starts_with_the_result_that_came() {
    let runtime = Runtime::new();
    let daemon = daemon(&runtime.socket(), &[r#"{"verdict":"enrolled"}"#]);
    assert_eq!(runtime.call().unwrap(), runtime.configuration["prevResult"].to_string());
    let request = daemon.join().unwrap().remove(0);
    assert_eq!((request.namespace.as_str(), request.name.as_str()), ("shop", "till-0"));
    assert_eq!((request.uid.as_deref(), request.container.as_str()), (Some("u-1"), "c0ffee"));
    assert_eq!(
        request.addresses,
        ["10.1.1.7".parse::<std::net::IpAddr>().unwrap(), "fd00::7".parse().unwrap()]
    );
}

#[test]
fn a_refused_pod_is_to_be_tried_again() {
    let runtime = Runtime::new();
    let daemon = daemon(&runtime.socket(), &[r#"{"verdict":"refused","reason":"no such pod"}"#]);
    let refusal = runtime.refusal();
    assert_eq!(refusal["code"], 11);
    assert!(refusal["msg"].as_str().unwrap().contains("no such pod"), "{refusal}");
    daemon.join().unwrap();
}

/// An older daemon that has been replaced must not let a pod start that the newer one would enrol, nor hold it up.
#[test]
fn the_daemon_that_serves_is_asked_when_another_is_replaced() {
    let runtime = Runtime::new();
    let answers: &[_] = &[r#"{"verdict":"superseded"}"#, "", r#"{"verdict":"notInMesh"}"#];
    let daemon = daemon(&runtime.socket(), answers);
    runtime.call().unwrap();
    assert_eq!(daemon.join().unwrap().len(), 3);
}

#[test]
fn without_a_daemon_pods_of_the_mesh_wait_and_all_others_start() {
    let mut runtime = Runtime::new();
    let refusal = runtime.refusal();
    assert_eq!(refusal["code"], 11);
    assert!(refusal["msg"].as_str().unwrap().contains("pods of namespace shop are in the mesh"), "{refusal}");
    runtime.enrolled(&["another"]);
    runtime.call().expect("not in the mesh");
    fs::remove_file(runtime.directory.path().join("enrolled")).unwrap();
    assert_eq!(runtime.refusal()["code"], 11, "which are in the mesh is not known");
    runtime.variables.insert("CNI_ARGS", "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns".to_owned());
    runtime.call().expect("the system's own pods never wait");
    runtime.variables.insert("CNI_ARGS", "IgnoreUnknown=1".to_owned());
    runtime.call().expect("not Kubernetes");
}

/// A daemon that hangs is as one that is not there.
#[test]
fn a_daemon_that_does_not_answer_is_not_waited_for_without_end() {
    let runtime = Runtime::new();
    let _silent = UnixListener::bind(runtime.socket()).unwrap();
    let begun = Instant::now();
    assert!(runtime.refusal()["msg"].as_str().unwrap().contains("no answer in time"));
    runtime.enrolled(&[]);
    runtime.call().expect("others start");
    assert!(begun.elapsed() < Duration::from_secs(10), "the deadline of a second is not kept");
}

#[test]
fn a_pod_that_goes_is_told_and_never_held_up() {
    let mut runtime = Runtime::new();
    runtime.variables.insert("CNI_COMMAND", "DEL".to_owned());
    runtime.variables.remove("CNI_NETNS");
    runtime.configuration.as_object_mut().unwrap().remove("prevResult");
    assert_eq!(runtime.call().unwrap(), "");
    let configuration = std::mem::replace(&mut runtime.configuration, json!({ "cniVersion": "0.2.0" }));
    assert_eq!(runtime.call().unwrap(), "", "whatever is wrong with the call");
    runtime.configuration = configuration;
    let daemon = daemon(&runtime.socket(), &["nonsense"]);
    assert_eq!(runtime.call().unwrap(), "");
    assert_eq!(daemon.join().unwrap()[0].command, Command::Del);
}

#[test]
fn a_call_that_makes_no_sense_is_refused_with_the_code_for_it() {
    let refused = |change: &dyn Fn(&mut Runtime)| {
        let mut runtime = Runtime::new();
        change(&mut runtime);
        runtime.refusal()["code"].clone()
    };
    assert_eq!(refused(&|r| drop(r.variables.remove("CNI_COMMAND"))), 4);
    assert_eq!(refused(&|r| drop(r.variables.remove("CNI_NETNS"))), 4);
    assert_eq!(refused(&|r| drop(r.variables.insert("CNI_NETNS", "/nowhere".to_owned()))), 5);
    assert_eq!(refused(&|r| r.configuration["cniVersion"] = json!("7.0.0")), 1);
    assert_eq!(refused(&|r| r.configuration["prevResult"] = Value::Null), 7);
    assert_eq!(refused(&|r| r.configuration["prevResult"] = json!({ "ips": [{ "address": "here" }] })), 7);
    assert_eq!(refused(&|r| r.configuration = json!([])), 6);
}

#[test]
fn versions_are_told_without_a_configuration() {
    let told = |input: &[u8]| run(|_| Some("VERSION".to_owned()), input).unwrap();
    let told: [Value; 2] =
        [told(b""), told(br#"{"cniVersion":"0.4.0"}"#)].map(|t| serde_json::from_str(&t).unwrap());
    assert_eq!((&told[0]["cniVersion"], &told[1]["cniVersion"]), (&json!("1.0.0"), &json!("0.4.0")));
    assert!(told[0]["supportedVersions"].as_array().unwrap().contains(&json!("1.0.0")));
}
