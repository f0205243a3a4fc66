//! The mesh's root is replaced while connections are made.

use std::{
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::{
    Daemon, eventually,
    rate::Rate,
    server::{Behaviour, Server},
};

use super::{Cluster, OWN, namespace};
use crate::held::Held;

const PER_SECOND: u32 = 50;
/// A certificate's life, what is left for all to follow, and what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(40);

impl Cluster {
    /// One step, as an operator takes it.
    fn rotate(&self, step: &str) -> Result<String, String> {
        let mut command = Command::new(self.mesh.binary());
        command.args(["controller", "rotate-root", step, "--settle", "2s", "--namespace", OWN]);
        command.arg("--kubeconfig").arg(self.mesh.directory().join("kubeconfig"));
        let output = self.mesh.topology().outside.run(move || command.output()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Tries until it is no longer too early, and yields how long that was.
    fn rotate_when_it_may(&self, step: &str) -> Duration {
        let began = Instant::now();
        loop {
            self.mount_roots();
            match self.rotate(step) {
                Ok(_) => return began.elapsed(),
                Err(error) => assert!(error.contains("too early"), "{step}: {error}"),
            }
            assert!(began.elapsed() < PATIENCE, "{step} is refused for ever");
            sleep(Duration::from_millis(500));
        }
    }

    /// What the controller's status says after a word; of several lines, all.
    fn said(&self, word: &str) -> String {
        let status = self.rotate("status").unwrap();
        let said: Vec<&str> =
            status.lines().filter_map(|line| line.strip_prefix(word)).map(str::trim).collect();
        said.join(" ")
    }
}

/// The roots that a daemon has come to believe and to give up, by fingerprint.
fn told(daemon: &Daemon, field: &str) -> String {
    let lines = daemon.log_lines().unwrap();
    let audited = lines.iter().filter(|line| line["target"] == "audit" && line["change"] == "root");
    audited.map(|line| line.get(field).map(Value::to_string).unwrap_or_default()).collect()
}

/// Catches: a root that signs before all daemons believe it, one that is dropped while certificates under it live, a step
/// that replicas or daemons do not follow, and connections that feel any of it.
#[test]
fn a_rotation_of_the_root_fails_no_connection() {
    let cluster = Cluster::with(&["--certificate-lifetime", "10s"]);
    let _echo = Server::start(cluster.mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let target = cluster.mesh.address("server", 0, 8080);
    cluster.api.put(namespace("default", Some("ambient"))).unwrap();
    let client = testkit::Mesh::identity("client");
    eventually("mutual TLS", || (cluster.seen_as("client", target).ok()? == client.as_str()).then_some(()));
    let mut held = Held::open(&cluster.mesh.pod("other").place, target);
    let old = cluster.said("signs:");
    let started = Instant::now();
    let rate = Rate::start(&cluster.mesh.pod("client").place, target, PER_SECOND);

    assert!(cluster.rotate("prepare").unwrap().contains("stage: prepared"));
    assert_eq!(cluster.said("believed:").matches("Mesh root").count(), 2);
    assert_eq!(cluster.said("signs:"), old);
    let waited = cluster.rotate_when_it_may("switch");
    assert!(waited > Duration::from_secs(9), "it signed after {waited:?}, before all believed it");
    let new = cluster.said("signs:");
    assert_ne!(new, old);
    for daemon in cluster.mesh.daemons() {
        assert!(
            told(daemon, "added").contains(&new),
            "a daemon did not believe the new root before it signed"
        );
    }
    let waited = cluster.rotate_when_it_may("finish");
    assert!(waited > Duration::from_secs(9), "the old root was dropped after {waited:?}");
    assert_eq!(cluster.said("believed:"), new);
    for daemon in cluster.mesh.daemons() {
        let deadline = Instant::now() + PATIENCE;
        while !told(daemon, "removed").contains(&old) {
            assert!(Instant::now() < deadline, "a daemon believes the old root for ever");
            cluster.mount_roots();
            sleep(Duration::from_millis(200));
        }
    }
    held.still_works(b"under two roots");

    let (took, outcomes) = (started.elapsed(), rate.stop().unwrap());
    println!("{} connections in {took:?}, {} failed", outcomes.total(), outcomes.failed());
    assert_eq!(outcomes.failed(), 0, "{outcomes:?}");
    assert!(outcomes.total() >= u64::from(PER_SECOND) * took.as_secs() * 8 / 10, "{outcomes:?} in {took:?}");
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert_eq!(log.matches("the rotation of the root is at another stage").count(), 3, "not all is audited");
    assert!(!log.contains("PRIVATE KEY"));
}
