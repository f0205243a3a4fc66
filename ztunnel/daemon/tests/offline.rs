//! What a team's continuous integration relies on: words and exit status of the commands that need no daemon.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Command,
};

fn example(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(name);
    path.to_string_lossy().into_owned()
}

/// Exit status, and both outputs together.
fn ztunnel(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ztunnel")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn validated(text: &str, flags: &[&str]) -> (i32, String) {
    let file = file(text);
    ztunnel(&[&["validate", file.path().to_str().unwrap()], flags].concat())
}

#[test]
fn the_examples_are_valid() {
    let files = ["state.yaml", "pods.yaml", "config.yaml"].map(example);
    let (status, said) = ztunnel(&["validate", "--deny-warnings", &files[0], &files[1], &files[2]]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("state.yaml: valid, 1 policies, 1 services, 2 workloads"), "{said}");
    assert!(said.contains("pods.yaml: valid, 1 pods") && said.contains("config.yaml: valid"), "{said}");
}

#[test]
fn an_invalid_file_is_told_with_its_line_and_fails() {
    for (text, expected) in [
        ("workloads:\n- {uid: x, namespace: a, workloadIps: [nonsense]}\n", ":2:"),
        ("settings: {namespaces: {a: {services: {s: {mtls: disable}}}}}\n", "disable it for a workload"),
        ("pods:\n- {uid: x, netns: relative, ips: [10.0.0.1]}\n", "absolute path"),
        ("workerThreads: 0\n", "1 to 1024"),
        ("colour: red\n", "neither mesh state nor pods"),
    ] {
        let (status, said) = validated(text, &[]);
        assert_eq!(status, 1, "{text}: {said}");
        assert!(said.contains("invalid") && said.contains(expected), "{text}: {said}");
    }
    assert_eq!(ztunnel(&["validate", "/nonexistent"]).0, 1);
    assert_eq!(ztunnel(&["validate"]).0, 2);
}

#[test]
fn warnings_fail_only_where_they_are_asked_to() {
    let text =
        "policies:\n- {name: p, namespace: a, scope: Global, action: Allow, rules: [[[{paths: [/x]}]]]}\n";
    let (status, said) = validated(text, &[]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("warning: policy `a/p`: `paths` are of layer 7"), "{said}");
    assert_eq!(validated(text, &["--deny-warnings"]).0, 1);
}

/// A daemon runs on with a mistake in a policy; whoever wrote it must hear of it all the same.
#[test]
fn a_mistake_in_a_policy_is_an_error_with_its_line_and_is_explained() {
    let text = "workloads:\n- {uid: w, name: w, namespace: a, workloadIps: [10.0.0.9], protocol: HBONE}\npolicies:\n\
                - {name: p, namespace: a, scope: Global, action: Allow, rules: [[[{sourceIps: [10.0.0.0/77]}]]]}\n";
    let (status, said) = validated(text, &[]);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains(":4:") && said.contains("policy `a/p`: `sourceIps` is not understood"), "{said}");
    let state = file(text);
    let (status, said) =
        ztunnel(&["explain", "--state", state.path().to_str().unwrap(), "10.0.0.1", "10.0.0.9:80"]);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("a/p (ALLOW) does not match; not enforced here: sourceIps"), "{said}");
}

/// A pod with a misspelled uid would be enrolled and could talk to nobody.
#[test]
fn a_pod_that_the_state_does_not_know_is_told() {
    let pods = file("pods:\n- {uid: misspelled, netns: /n, ips: [10.0.0.2]}\n");
    let pods = pods.path().to_str().unwrap();
    let (status, said) = ztunnel(&["validate", &example("state.yaml"), pods]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("pod `misspelled` is no workload of the state"), "{said}");
    assert_eq!(ztunnel(&["validate", "--deny-warnings", pods, &example("state.yaml")]).0, 1);
    assert_eq!(ztunnel(&["validate", "--deny-warnings", pods]).0, 0, "without a state nobody can tell");
}

#[test]
fn an_explanation_exits_by_its_decision() {
    let state = example("state.yaml");
    let ask = |source: &str, destination: &str| ztunnel(&["explain", "--state", &state, source, destination]);
    let (status, said) = ask("default/client", "web.default.svc.cluster.local:80");
    assert_eq!(status, 0, "{said}");
    for part in [
        "spiffe://cluster.local/ns/default/sa/server",
        "10.2.0.10:8080",
        "default/clients-only (ALLOW) matches",
        "=>",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (status, said) = ask("192.0.2.1", "default/server:8080");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("refused: plaintext_in_strict"), "{said}");
    let (status, said) = ask("default/client", "default/server:81");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("refused: not_allowed"), "{said}");
    let (status, said) = ask("192.0.2.1", "web.default.svc.cluster.local:80");
    assert_eq!(status, 1, "a stranger is led to the same pods: {said}");
    let (status, said) = ask("default/nobody", "default/server:81");
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("`default/nobody` is no workload"), "{said}");
    assert_eq!(ztunnel(&["explain", "--state", "/nonexistent", "a/b", "c/d"]).0, 2);
    let json = ztunnel(&["explain", "--json", "--state", &state, "192.0.2.1", "default/server"]).1;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["refused"], "plaintext_in_strict");
}

/// Would break if a peer under another name of the mesh were explained as a stranger.
#[test]
fn an_explanation_knows_other_names_of_the_trust_domain() {
    let state = file(
        "workloads:\n- {uid: c, name: c, namespace: a, trustDomain: old.example, serviceAccount: c, workloadIps: [10.0.0.1], \
         protocol: HBONE}\n- {uid: s, name: s, namespace: a, workloadIps: [10.0.0.2], protocol: HBONE}\n\
         policies:\n- {name: p, namespace: a, scope: Namespace, action: Allow, rules: [[[{principals: [{Exact: \
         cluster.local/ns/a/sa/c}]}]]]}\n",
    );
    let ask = |flags: &[&str]| {
        let question = ["explain", "--state", state.path().to_str().unwrap(), "a/c", "10.0.0.2:80"];
        ztunnel(&[&question, flags].concat())
    };
    let (status, said) = ask(&[]);
    assert_eq!(status, 1, "{said}");
    let (status, said) = ask(&["--trust-domain-alias", "old.example"]);
    assert_eq!(status, 0, "{said}");
    let (status, said) = ask(&["--federated-trust-domain", "old.example"]);
    assert_eq!(status, 1, "believed, but another's: {said}");
}

/// A node's pods file counts where it is given: it is what that node asks.
#[test]
fn an_explanation_follows_the_pods_file() {
    let state =
        file("workloads:\n- {uid: s, name: s, namespace: a, workloadIps: [10.0.0.2], protocol: HBONE}\n");
    let pods = file("pods:\n- {uid: s, netns: /n, ips: [10.0.0.2], mtls: strict}\n");
    let (state, pods) = (state.path().to_str().unwrap(), pods.path().to_str().unwrap());
    assert_eq!(ztunnel(&["explain", "--state", state, "192.0.2.1", "10.0.0.2:80"]).0, 0);
    let (status, said) = ztunnel(&["explain", "--state", state, "--pods", pods, "192.0.2.1", "10.0.0.2:80"]);
    assert_eq!(status, 1, "{said}");
}

#[test]
fn the_list_of_plaintext_is_read_from_the_admin_endpoint() {
    let answer = |body: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /plaintext HTTP/1.1\r\n"));
            write!(stream, "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}").unwrap();
        });
        let said = ztunnel(&["plaintext", "--admin", &address]);
        server.join().unwrap();
        said
    };
    let (status, said) = answer(r#"{"accepted": [], "beforeEnrolment": []}"#);
    assert_eq!((status, said.trim()), (0, "no plaintext where mutual TLS is possible"));
    let (status, said) = answer(
        r#"{"accepted": [{"source": "10.0.0.9", "destination": "s", "port": 80, "connections": 3, "open": 1, "firstSeen": 1, "lastSeen": 2}],
            "beforeEnrolment": [{"source": "s", "destination": "192.0.2.1", "port": 443, "connections": 1}]}"#,
    );
    assert_eq!(status, 1);
    let lines: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect())
        .collect();
    assert_eq!(lines[0], ["SEEN", "FROM", "TO", "PORT", "CONNECTIONS", "OPEN"]);
    assert_eq!(lines[1], ["accepted", "10.0.0.9", "s", "80", "3", "1"]);
    assert_eq!(lines[2], ["before enrolment", "s", "192.0.2.1", "443", "1", "1"]);
    let (status, said) = ztunnel(&["plaintext", "--admin", "127.0.0.1:1"]);
    assert_eq!(status, 2);
    assert!(said.contains("is it running on this node?"), "{said}");
}
