//! The programs of the load, from pod to pod without a mesh: what they count is what they did.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};
use testkit::{Mesh, MeshPlan, Place, Process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ztunnel-bench");

struct Client {
    _process: Process,
    orders: ChildStdin,
    outcomes: BufReader<ChildStdout>,
}

impl Client {
    fn start(place: &Place) -> Self {
        let mut process = start(place, &["client"]);
        let (orders, outcomes) = (process.child().stdin.take(), process.child().stdout.take());
        Self { _process: process, orders: orders.unwrap(), outcomes: BufReader::new(outcomes.unwrap()) }
    }

    #[track_caller]
    fn order(&mut self, order: &Value) -> Value {
        writeln!(self.orders, "{order}").unwrap();
        let mut line = String::new();
        self.outcomes.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn start(place: &Place, arguments: &[&str]) -> Process {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    place.start(command).unwrap()
}

#[track_caller]
fn listening(place: &Place, arguments: &[&str]) -> Process {
    let mut process = start(place, arguments);
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    process
}

/// Catches: an order that hangs, bytes or connections that are counted and were not carried, a relay that loses some, a
/// failure that is told as a success.
#[test]
fn every_order_is_carried_out_and_counted() {
    let mesh: Mesh = MeshPlan::new(&["client", "server other"]).build().unwrap();
    let (server, other) = (mesh.pod("server").ips()[0], mesh.pod("other").ips()[0]);
    let netns = mesh.pod("other").netns().display().to_string();
    let _server = listening(mesh.pod("server"), &["server", "--netns", &netns]);
    let _relay = listening(mesh.pod("client"), &["relay", "127.0.0.1:9000", &format!("{server}:8080")]);
    let mut client = Client::start(mesh.pod("client"));
    let mut done = |order: Value| client.order(&order)["Ok"].clone();
    for direction in ["Up", "Down"] {
        let bulk = json!({ "server": server, "streams": 2, "direction": direction, "millis": 50 });
        let outcome = done(json!({ "Bulk": bulk }));
        assert!(outcome["bytes"].as_u64().unwrap() > 1 << 20, "{direction}: {outcome}");
    }
    let outcome = done(json!({ "Requests": { "server": server, "connections": 4, "millis": 50 } }));
    assert!(outcome["operations"].as_u64().unwrap() > 20 && outcome["p99_micros"].as_f64() > Some(0.0));
    for target in [format!("{server}:8080"), "127.0.0.1:9000".to_owned()] {
        let outcome = done(json!({ "PingPong": { "server": target, "size": 1024, "millis": 50 } }));
        assert!(outcome["operations"].as_u64().unwrap() > 20, "{target}: {outcome}");
    }
    let both = [format!("{server}:8080"), format!("{other}:8080")];
    let outcome = done(json!({ "Connect": { "servers": both, "count": 21, "at_once": 4 } }));
    assert_eq!(outcome["operations"], 21);
    assert_eq!(done(json!({ "Hold": { "server": both[0], "count": 30 } }))["operations"], 30);
    assert_eq!(done(json!({ "Carry": { "bytes": 100_000 } }))["operations"], 30);
    assert_eq!(done(json!("Release"))["operations"], 30);
    assert_eq!(done(json!("Release"))["operations"], 0);
    let nobody = json!({ "Connect": { "servers": [format!("{server}:1")], "count": 1, "at_once": 1 } });
    assert!(client.order(&nobody)["Err"].as_str().unwrap().contains("refused"));
}
