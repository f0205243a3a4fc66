//! What a proven peer may ask for, and what it is answered otherwise. After a refusal the connection goes on.

use http::Method;
use serde_json::{Value, json};
use testkit::{
    Daemon, Mesh, MeshPlan, eventually,
    server::{Behaviour, Server},
};

use super::{
    client::{Peer, config, secure},
    frames::{Frames, PROTOCOL_ERROR},
    good, inside,
};
use crate::support::FAMILIES;

const MARKER: &[u8] = b"through the tunnel";
const OK: u16 = 200;

/// Authority, answer, and the reason in the access log.
fn cases(mesh: &Mesh, family: usize) -> Vec<(String, u16, &'static str)> {
    let at = |port: u16| mesh.address("server", family, port).to_string();
    let ip = mesh.pod("server").ips()[family];
    let other_family = mesh.address("server", 1 - family, 8080).to_string();
    let neighbour = mesh.address("neighbour", family, 8080).to_string();
    let loopback = if family == 0 { "127.0.0.1:8080" } else { "[::1]:8080" };
    let bare = if family == 0 { ip.to_string() } else { format!("[{ip}]") };
    let mut cases = vec![
        (at(8080), OK, "completed"),
        ("web.default.svc.cluster.local:80".to_owned(), OK, "completed"),
        (neighbour, 400, "wrong_destination"),
        (other_family, 400, "wrong_destination"),
        (loopback.to_owned(), 400, "wrong_destination"),
        (bare, 400, "bad_authority"),
        ("web.default.svc.cluster.local".to_owned(), 400, "bad_authority"),
        ("web.default.svc.cluster.local:81".to_owned(), 503, "unknown_destination"),
        ("nobody.default.svc.cluster.local:80".to_owned(), 503, "unknown_destination"),
        (format!("someone@{}", at(8080)), 503, "unknown_destination"),
        (at(0), 503, "reserved_port"),
        (at(9), 503, "application_connect"),
    ];
    cases.extend([15001, 15006, 15008, 15053, 15080].map(|port| (at(port), 503, "reserved_port")));
    cases
}

fn mesh() -> Mesh {
    let service = json!({
        "name": "web", "namespace": "default", "hostname": "web.default.svc.cluster.local",
        "vips": ["/10.96.0.20", "/fd96::20"], "ports": { "80": 8080 },
        "endpoints": { "web": { "workloadUid": Mesh::uid("server"), "port": { "80": 8080 } } }
    });
    MeshPlan::new(&["server neighbour"]).service(service).start().unwrap()
}

/// Catches: a way to reach through a pod's proxy what is not that pod's application, and an answer that other
/// proxies would not understand.
#[test]
fn a_peer_reaches_this_pods_application_and_nothing_else() {
    let mesh = mesh();
    let outside = &mesh.topology().outside;
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let neighbour = Server::start(mesh.pod("neighbour"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        let config = config(good(&mesh, "client"));
        let cases = cases(&mesh, family);
        let asked: Vec<String> = cases.iter().map(|(authority, ..)| authority.clone()).collect();
        let before = mesh.daemon(1).access_log().unwrap().len();
        // One after the other, over one connection, and the first once more at the end.
        let answers = inside(outside, move || async move {
            let peer = Peer::connect(gateway, config).await;
            let mut answers = Vec::new();
            for authority in asked.iter().chain(asked.first()) {
                answers.push(answer_to(&peer, authority).await);
            }
            answers
        });
        assert_eq!(answers.last(), Some(&OK), "after all the refusals");
        let lines = eventually("all are logged", || {
            let lines = mesh.daemon(1).access_log().unwrap().split_off(before);
            (lines.len() == answers.len()).then_some(lines)
        });
        for ((authority, status, reason), answer) in cases.iter().zip(answers) {
            assert_eq!(answer, *status, "{authority}");
            assert!(lines.iter().any(|line| line["reason"] == *reason), "{authority}: no {reason}");
        }
        for reason in cases.iter().map(|(_, _, reason)| reason) {
            let expected = cases.iter().filter(|(_, _, other)| other == reason).count();
            let expected = expected + usize::from(*reason == "completed");
            assert_eq!(lines.iter().filter(|line| line["reason"] == **reason).count(), expected, "{reason}");
        }
        assert_eq!(application.accepted(), 3 * (family + 1));
    }
    assert_eq!(neighbour.accepted(), 0);
}

async fn answer_to(peer: &Peer, authority: &str) -> u16 {
    match peer.connect_to(authority).await {
        Ok(mut stream) => {
            assert_eq!(stream.exchange(MARKER).await.unwrap(), MARKER);
            stream.sender.send_data(bytes::Bytes::new(), true).unwrap();
            while stream.receiver.data().await.is_some() {}
            OK
        }
        Err(status) => status.as_u16(),
    }
}

/// Catches: HTTP that is no tunnel and yet gets anywhere, or ends the tunnels beside it.
#[test]
fn what_is_no_connect_is_turned_away() {
    let mesh = mesh();
    let outside = &mesh.topology().outside;
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8080).to_string();
        let rejected = rejected(mesh.daemon(1));
        let leaf = good(&mesh, "client");
        inside(outside, move || async move {
            let peer = Peer::connect(gateway, config(leaf)).await;
            let mut stream = peer.connect_to(&target).await.expect("200");
            for method in [Method::GET, Method::POST, Method::OPTIONS] {
                let answer = peer.ask(method, &format!("http://{target}/")).await;
                assert_eq!(answer.err().map(|status| status.as_u16()), Some(400));
            }
            assert_eq!(stream.exchange(MARKER).await.unwrap(), MARKER);
        });
        eventually("three are counted", || (self::rejected(mesh.daemon(1)) == rejected + 3.0).then_some(()));
        let listed = mesh.daemon(1).admin("/refusals?reason=not_a_connect").unwrap();
        let of_client = |entry: &Value| entry["source"]["identity"] == Mesh::identity("client").as_str();
        assert!(listed.as_array().unwrap().iter().any(of_client), "{listed}");
        assert_eq!(application.accepted(), family + 1);
    }
}

fn rejected(daemon: &Daemon) -> f64 {
    daemon.metric("ztunnel_rejected_requests_total", &[("reason", "not_a_connect")]).unwrap()
}

/// Catches: a proven peer that fills the node's log with refusals, as fast as HTTP/2 can ask; or one of which nobody learns how
/// often it was refused.
#[test]
fn refusals_without_end_are_few_lines_and_their_number() {
    const ASKED: usize = 1000;
    const LINES: usize = 50;
    let access_log = json!({ "errorLines": LINES, "errorInterval": "3s" });
    let mesh = MeshPlan::new(&["server"]).setting("accessLog", access_log).start().unwrap();
    let (daemon, gateway) = (mesh.daemon(1), mesh.address("server", 0, 15008));
    let leaf = good(&mesh, "client");
    inside(&mesh.topology().outside, move || async move {
        let peer = Peer::connect(gateway, config(leaf)).await;
        for _ in 0..ASKED {
            assert_eq!(peer.connect_to("10.0.0.1:80").await.err().map(|status| status.as_u16()), Some(400));
        }
    });
    let (lines, counted) = eventually("all are accounted for", || {
        let log = daemon.access_log().unwrap();
        let counted: u64 = log.iter().filter_map(|line| line["suppressed"].as_u64()).sum();
        let lines = log.iter().filter(|line| line["reason"] == "wrong_destination").count();
        (lines as u64 + counted == ASKED as u64).then_some((lines, counted))
    });
    assert!(lines < ASKED / 2 && lines % LINES == 0, "{lines} lines");
    eventually("the metric tells it too", || {
        let suppressed = daemon.metric("ztunnel_access_log_lines_suppressed_total", &[]).unwrap();
        (suppressed == counted as f64).then_some(())
    });
    let refused = daemon.admin("/refusals?reason=wrong_destination").unwrap();
    assert_eq!(refused[0]["count"], ASKED, "{refused}");
}

/// RFC 9113, section 8.5: a CONNECT has neither scheme nor path. RFC 8441's `:protocol` is not offered.
///
/// Catches: a malformed CONNECT that is understood differently by whoever stands before us.
#[test]
fn a_malformed_connect_ends_its_stream_and_no_other() {
    let mesh = mesh();
    let outside = &mesh.topology().outside;
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8080).to_string();
        let leaf = good(&mesh, "client");
        inside(outside, move || async move {
            let mut frames = Frames::open(secure(gateway, config(leaf)).await.unwrap()).await;
            let connect = [(":method", "CONNECT"), (":authority", &*target)];
            let (scheme, path) = ((":scheme", "https"), (":path", "/"));
            let extended = [scheme, path, (":protocol", "connect-tcp")];
            for (stream, more) in
                [1, 3, 5, 7].into_iter().zip([&[scheme, path][..], &[scheme], &[path], &extended])
            {
                frames.headers(stream, &[&connect[..], more].concat()).await;
                assert_eq!(frames.reset_of(stream).await, PROTOCOL_ERROR, "{more:?}");
            }
            frames.headers(9, &connect).await;
            assert_eq!(frames.status_of(9).await, OK);
        });
        eventually("one reached the application", || (application.accepted() == family + 1).then_some(()));
    }
}
