//! Streams of state: refusals, slow daemons, and those that come back.

use std::time::{Duration, Instant};

use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use serde_json::json;

use super::{Cluster, Daemon, OWN, Replica, api::pod, daemon::names, within};

/// Nothing is to come.
const SILENCE: Duration = Duration::from_secs(2);

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

/// Fails if what a daemon refuses were sent again and again, or not counted, or if it were told nothing any more.
#[test]
fn a_refusal_is_counted_and_not_argued_with() {
    Cluster::each(|cluster| {
        let replica = Replica::start(&cluster, "one", &[]);
        let daemon = Daemon::of(&cluster, 1);
        let mut stream = daemon.stream(&cluster, &replica, ADDRESS_TYPE, &[]).unwrap();
        let response = stream.take();
        assert!(names(&response).contains(&uid("pod-1")));
        stream.answer(&response, Some("pod-1: no"));
        within(Duration::from_secs(5), "it is counted", || {
            (replica.metric("refused_responses_total") == Some(1)).then_some(())
        });
        assert!(stream.next(SILENCE).is_none(), "what was refused is sent again");
        // An answer to what was not asked is none.
        stream.answer(&response, Some("again"));
        cluster.run("pod-1", "10.0.0.99");
        let changed = stream.until(&uid("pod-1"));
        assert!(!changed.contains(&uid("pod-2")), "{changed:?}: what did not change is sent again");
        assert_eq!(replica.metric("refused_responses_total"), Some(1));
    });
}

/// Fails if a daemon that comes back, to whichever replica, were sent what it has, or not told what is gone and new.
#[test]
fn who_comes_back_is_told_what_differs() {
    Cluster::each(|cluster| {
        let replicas = ["one", "two"].map(|name| Replica::start(&cluster, name, &[]));
        let daemon = Daemon::of(&cluster, 1);
        let response = daemon.stream(&cluster, &replicas[0], ADDRESS_TYPE, &[]).unwrap().take();
        let versions = response.resources.into_iter().map(|one| (one.name, one.version));
        let mut had: Vec<(String, String)> = versions.collect();
        let mut stream = daemon.stream(&cluster, &replicas[1], ADDRESS_TYPE, &had).unwrap();
        assert_eq!(names(&stream.take()), Vec::<String>::new(), "it has all of that");
        drop(stream);
        had.push((uid("gone"), "1".to_owned()));
        cluster.put(&pod("shop", "pod-3", "account-1", "node-1"));
        cluster.run("pod-3", "10.0.0.3");
        for replica in &replicas {
            within(Duration::from_secs(10), "the replica knows the pod", || {
                let told = daemon.stream(&cluster, replica, ADDRESS_TYPE, &had).unwrap().take();
                let mut told = names(&told);
                told.sort();
                (told == [format!("-{}", uid("gone")), uid("pod-3")]).then_some(())
            });
        }
    });
}

/// Fails if daemons that do not take what they asked for kept others from theirs.
#[test]
fn slow_daemons_keep_nobody_waiting_for_long() {
    let cluster = Cluster::of_test();
    // More than what one is sent without a turn.
    for number in 0..3_000 {
        let name = format!("many-{number}");
        let mut object = pod("shop", &name, "account-1", "node-1");
        let ip = format!("10.1.{}.{}", number / 250, 1 + number % 250);
        object["status"] = json!({ "phase": "Running", "podIPs": [{ "ip": ip }] });
        cluster.put(&object);
    }
    for number in 10..16 {
        cluster.put(&pod(OWN, &format!("ztunnel-{number}"), "ztunnel", "node-1"));
    }
    let replica = Replica::start(&cluster, "one", &[]);
    let slow: Vec<Daemon> = (10..16).map(|number| Daemon::of(&cluster, number)).collect();
    // They ask, and never say that they have it.
    let silent: Vec<_> = slow
        .iter()
        .take(2)
        .map(|daemon| daemon.stream(&cluster, &replica, ADDRESS_TYPE, &[]).unwrap())
        .collect();
    within(Duration::from_secs(10), "they were told", || {
        (replica.metric("responses_total") == Some(2)).then_some(())
    });
    let daemon = Daemon::of(&cluster, 1);
    let began = Instant::now();
    let mut stream = daemon.stream(&cluster, &replica, ADDRESS_TYPE, &[]).unwrap();
    let response = stream.take();
    assert!(response.resources.len() > 3_000);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    stream.answer(&response, None);
    // Who has what it needs takes no turn.
    let versions = response.resources.into_iter().map(|one| (one.name, one.version)).collect::<Vec<_>>();
    let more: Vec<_> = slow
        .iter()
        .skip(2)
        .map(|daemon| daemon.stream(&cluster, &replica, ADDRESS_TYPE, &[]).unwrap())
        .collect();
    let began = Instant::now();
    let mut back = Daemon::of(&cluster, 2);
    let told = back.stream(&cluster, &replica, ADDRESS_TYPE, &versions).unwrap().take();
    assert_eq!(names(&told), Vec::<String>::new());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    back = daemon;
    assert!(back.certificate(&cluster, &replica, "account-1").is_ok());
    drop((silent, more));
}

/// Fails if one daemon could open streams without end, or a stream went on after its daemon's pod.
#[test]
fn a_daemon_has_two_streams_while_its_pod_is_there() {
    let cluster = Cluster::of_test();
    let replica = Replica::start(&cluster, "one", &[]);
    let daemon = Daemon::of(&cluster, 1);
    let open = || {
        let mut stream = daemon.stream(&cluster, &replica, AUTHORIZATION_TYPE, &[]).unwrap();
        let response = stream.take();
        stream.answer(&response, None);
        stream
    };
    let mut streams = [(); 3].map(|()| open());
    let ended = streams[0].next(Duration::from_secs(10)).expect("the first goes on");
    assert_eq!(ended.unwrap_err().code(), proto::tonic::Code::Aborted);
    assert!(streams[1].next(SILENCE).is_none() && streams[2].next(SILENCE).is_none());
    cluster.delete("v1", "pods", OWN, "ztunnel-1");
    let ended = streams[2].next(Duration::from_secs(40)).expect("it outlives its pod");
    assert_eq!(ended.unwrap_err().code(), proto::tonic::Code::Unauthenticated);
}

/// Fails if who has no token could keep a connection, or fill the places of daemons.
#[test]
fn strangers_are_shown_out() {
    use std::{io::Read as _, net::TcpStream};
    let cluster = Cluster::of_test();
    let replica = Replica::start(&cluster, "one", &[]);
    let mut idle: Vec<TcpStream> =
        (0..1_500).map(|_| TcpStream::connect(replica.address()).unwrap()).collect();
    let daemon = Daemon::of(&cluster, 1);
    daemon.certificate(&cluster, &replica, "account-1").unwrap();
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let ended = stream.read(&mut [0; 64]);
        let is_over = ended.as_ref().is_ok_and(|length| *length == 0)
            || ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(is_over, "{ended:?}");
    }
}
