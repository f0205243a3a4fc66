//! The client over real TLS, against a control plane that misbehaves.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use model::SharedSnapshot;
use proto::{ADDRESS_TYPE, discovery::DeltaDiscoveryResponse, tonic::Code};
use testkit::control_plane::{Conduct, ControlPlane as Server, Known};
use tokio::time::{sleep, timeout};

use super::resources::{of_workload, trust_domain, uid, workload};
use crate::{
    ChannelSettings,
    xds::{ControlPlane, ControlPlaneSettings, ControlPlaneStatus, OnDemandSettings, ProxyNode},
};

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn server() -> Server {
    Server::start(Ipv4Addr::LOCALHOST.into(), None).unwrap()
}

pub(super) fn settings(server: &Server, on_demand: Option<OnDemandSettings>) -> ControlPlaneSettings {
    ControlPlaneSettings {
        channel: ChannelSettings {
            address: server.address().to_string().parse().unwrap(),
            roots: server.root_pem().parse().unwrap(),
            token_file: None,
            cluster_id: "Kubernetes".to_owned(),
            headers: crate::RequestHeaders::default(),
            connect_deadline: Duration::from_secs(5),
        },
        node: ProxyNode::default(),
        trust_domain: trust_domain(),
        root_namespace: None,
        on_demand,
        local: model::Settings::default(),
    }
}

pub(super) fn known(name: &str, ip: &str) -> Known {
    let resource = of_workload(workload(name, ip), "");
    Known::address(&resource.name, vec![format!("/{ip}")], resource.resource.unwrap().value.to_vec())
}

/// Waits until the snapshot has exactly these workloads, by name and address.
async fn has(snapshot: &SharedSnapshot, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(name, ip)| (uid(name), (*ip).to_owned())).collect();
    let held = || -> Vec<_> {
        snapshot.load().workloads().map(|w| (w.uid.to_string(), w.workload_ips[0].to_string())).collect()
    };
    let waiting = async {
        while held() != expected {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "expected {expected:?}, found {:?}", held());
}

async fn status(client: &ControlPlane, fits: impl FnMut(&ControlPlaneStatus) -> bool) -> ControlPlaneStatus {
    let mut receiver = client.status();
    let found = timeout(PATIENCE, receiver.wait_for(fits)).await;
    match found {
        Ok(found) => found.unwrap().clone(),
        Err(_) => panic!("the status is {:?}", client.status().borrow()),
    }
}

/// Would break if a stream that fails took the known state along, or nobody tried again.
#[tokio::test]
async fn whatever_it_does_what_is_known_stays_and_it_is_asked_again() {
    for conduct in [Conduct::Refuse(Code::Unavailable), Conduct::Refuse(Code::Ok), Conduct::HalfMessage] {
        let (server, snapshot) = (server(), Arc::new(SharedSnapshot::default()));
        server.put(known("a", "10.0.0.1"));
        let client = ControlPlane::start(settings(&server, None), Arc::clone(&snapshot));
        timeout(PATIENCE, client.complete()).await.unwrap();
        has(&snapshot, &[("a", "10.0.0.1")]).await;
        server.behave(conduct);
        server.end_streams();
        let gone = status(&client, |status| !status.connected && status.last_response.is_some()).await;
        assert!(gone.is_complete(), "what was once complete stays ready");
        assert!(gone.age(gone.since + Duration::from_secs(7)).unwrap() >= Duration::from_secs(7));
        sleep(Duration::from_millis(300)).await;
        has(&snapshot, &[("a", "10.0.0.1")]).await;
        server.put(known("b", "10.0.0.2"));
        server.behave(Conduct::Proper);
        has(&snapshot, &[("a", "10.0.0.1"), ("b", "10.0.0.2")]).await;
        status(&client, |status| status.connected && status.problem.is_none()).await;
    }
}

/// Would break if a control plane that takes its time were given up, or a part of what it says were taken for all of it.
#[tokio::test]
async fn a_slow_one_is_waited_for_and_nothing_is_believed_by_halves() {
    const COUNT: u32 = 200;
    let (server, snapshot) = (server(), Arc::new(SharedSnapshot::default()));
    server.behave(Conduct::Slow);
    server.put_all(
        (0..COUNT).map(|number| known(&format!("{number:03}"), &format!("10.0.1.{number}"))).collect(),
    );
    let began = Instant::now();
    let client = ControlPlane::start(settings(&server, None), Arc::clone(&snapshot));
    let watching = async {
        while snapshot.load().workloads().next().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        snapshot.load().workloads().count()
    };
    assert_eq!(timeout(PATIENCE, watching).await.unwrap(), COUNT as usize);
    assert!(began.elapsed() > Duration::from_millis(500), "it was not slow: {:?}", began.elapsed());
    timeout(PATIENCE, client.complete()).await.unwrap();
    let told = status(&client, |_| true).await;
    assert_eq!((told.streams, told.failures), (1, 0), "{told:?}");
}

/// Would break if a push of a whole mesh in one message were too large, or anybody who looks something up waited for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_push_is_taken_in_one_message_and_keeps_no_reader_waiting() {
    const COUNT: u32 = 100_000;
    let (server, snapshot) = (server(), Arc::new(SharedSnapshot::default()));
    server.put(known("a", "10.0.0.1"));
    let client = ControlPlane::start(settings(&server, None), Arc::clone(&snapshot));
    has(&snapshot, &[("a", "10.0.0.1")]).await;
    let (read, stop) = (Arc::clone(&snapshot), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let reader = std::thread::spawn(move || {
        let (mut longest, mut lookups, mut last) = (Duration::ZERO, 0_u64, Instant::now());
        while !stopped.load(Ordering::Relaxed) {
            assert!(read.load().workload(&model::WorkloadUid::new(&uid("a"))).is_some());
            let now = Instant::now();
            (longest, last, lookups) = (longest.max(now - last), now, lookups + 1);
        }
        (longest, lookups)
    });
    let began = Instant::now();
    server.put_all(testkit::control_plane::large::known(COUNT));
    let mut receiver = client.status();
    let all = |status: &ControlPlaneStatus| status.objects.get("workloads") == Some(&(COUNT as usize + 1));
    timeout(Duration::from_secs(120), receiver.wait_for(all)).await.unwrap().unwrap();
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let (longest, lookups) = reader.join().unwrap();
    println!(
        "{COUNT} workloads in one response in {took:?}; {lookups} look-ups, the longest pause {longest:?}"
    );
    // A reader that waits for the push waits for nearly all of it.
    assert!(longest < took / 4, "{longest:?} of {took:?}");
    assert_eq!(status(&client, |_| true).await.types["address"].responses, 2, "it came in pieces");
}

/// Would break if a new stream began with nothing, or what went while nobody listened stayed.
#[tokio::test]
async fn what_vanished_while_it_was_gone_is_gone_and_the_rest_does_not_move() {
    let (mut server, snapshot) = (server(), Arc::new(SharedSnapshot::default()));
    server.put_all(vec![known("a", "10.0.0.1"), known("b", "10.0.0.2")]);
    let client = ControlPlane::start(settings(&server, None), Arc::clone(&snapshot));
    has(&snapshot, &[("a", "10.0.0.1"), ("b", "10.0.0.2")]).await;
    let before = Arc::clone(snapshot.load().workload(&model::WorkloadUid::new(&uid("a"))).unwrap());
    server.stop();
    let gone = status(&client, |status| status.problem.is_some()).await;
    assert_eq!(gone.pending(), None);
    has(&snapshot, &[("a", "10.0.0.1"), ("b", "10.0.0.2")]).await;
    server.remove(ADDRESS_TYPE, &uid("b"));
    // Everything again under new versions: a control plane that has forgotten what it sent.
    server.put(known("a", "10.0.0.1"));
    server.resume().unwrap();
    has(&snapshot, &[("a", "10.0.0.1")]).await;
    let after = Arc::clone(snapshot.load().workload(&model::WorkloadUid::new(&uid("a"))).unwrap());
    assert!(Arc::ptr_eq(&before, &after), "the same was sent again, and nothing was changed for it");
}

#[tokio::test]
async fn without_a_control_plane_it_says_what_it_waits_for() {
    let mut server = server();
    server.stop();
    let client = ControlPlane::start(settings(&server, None), Arc::default());
    let waiting = status(&client, |status| status.problem.is_some()).await.pending().unwrap();
    assert!(waiting.contains(&server.address().to_string()) && waiting.contains("refused"), "{waiting}");
    server.behave(Conduct::Silent);
    server.resume().unwrap();
    // A server that says nothing has not opened the stream either, for all that HTTP/2 knows.
    assert!(timeout(Duration::from_millis(500), client.complete()).await.is_err());
    server.behave(Conduct::Proper);
    server.end_streams();
    timeout(PATIENCE, client.complete()).await.unwrap();
    assert_eq!(client.status().borrow().pending(), None);
}

/// The kubelet has replaced the token: nobody restarts us for that.
#[tokio::test]
async fn a_token_that_has_expired_is_told_and_its_successor_taken() {
    let server = server();
    server.accept_only("new");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "old").unwrap();
    let mut settings = settings(&server, None);
    settings.channel.token_file = Some(file.path().to_owned());
    let client = ControlPlane::start(settings, Arc::default());
    let problem = status(&client, |status| status.problem.is_some()).await.problem.unwrap();
    assert!(problem.error.contains("the token has expired") && !problem.error.contains("old"), "{problem:?}");
    fs::write(file.path(), "new").unwrap();
    timeout(PATIENCE, client.complete()).await.unwrap();
}

/// Nonces out of order, repeated, absent, of other types; then as many pushes as can be sent. Each is answered once.
#[tokio::test]
async fn every_response_is_answered_however_many_and_odd_they_are() {
    const PUSHES: u32 = 1000;
    let (server, snapshot) = (server(), Arc::new(SharedSnapshot::default()));
    let client = ControlPlane::start(settings(&server, None), Arc::clone(&snapshot));
    timeout(PATIENCE, client.complete()).await.unwrap();
    let odd = |nonce: &str, name: &str, type_url: &str| DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources: vec![of_workload(workload(name, "10.0.0.1"), nonce)],
        ..DeltaDiscoveryResponse::default()
    };
    let mut expected = BTreeSet::new();
    for (nonce, type_url) in [("9", ADDRESS_TYPE), ("7", ADDRESS_TYPE), ("9", ADDRESS_TYPE), ("8", "other")] {
        server.send(&odd(nonce, "odd", type_url));
        expected.insert(nonce.to_owned());
    }
    server.send(&odd("", "odd", ADDRESS_TYPE));
    server.remove(ADDRESS_TYPE, &uid("odd"));
    for number in 0..PUSHES {
        let [_, _, high, low] = number.to_be_bytes();
        server.put(known("moving", &format!("10.1.{high}.{low}")));
    }
    let [_, _, high, low] = (PUSHES - 1).to_be_bytes();
    has(&snapshot, &[("moving", &format!("10.1.{high}.{low}"))]).await;
    let answers = || {
        let requests = server.requests();
        requests.iter().filter(|r| !r.response_nonce.is_empty()).map(|r| r.response_nonce.clone()).collect()
    };
    let all = async {
        // Two first responses, four odd ones, a removal, the pushes.
        while Vec::len(&answers()) < 2 + 4 + 1 + PUSHES as usize {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all).await.unwrap();
    let answers: Vec<String> = answers();
    assert!(expected.iter().all(|nonce| answers.contains(nonce)), "{expected:?}");
    assert_eq!(answers.iter().filter(|nonce| **nonce == "9").count(), 2, "a repetition is answered too");
    assert_eq!(status(&client, |_| true).await.streams, 1, "none of it ended the stream");
}
