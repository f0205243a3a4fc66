//! `sameNode: direct`: pods of one node reach each other past the network. Who may is decided as through the tunnel, and
//! how bytes and ends travel is the same.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    capture::{Capture, Keep},
    client::Dial,
    eventually, pattern,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    support::{FAMILIES, last_logged, reset_after_a_byte, send},
};

const PORT: u16 = 8080;
const MARKER: &[u8] = b"what no interface may carry";

fn plan(pods: &str) -> MeshPlan {
    MeshPlan::new(&[pods]).setting("sameNode", "direct")
}

fn echo(from: &Place, target: SocketAddr) -> io::Result<()> {
    from.run(move || Dial::to(target).exchange(MARKER)).map(drop)
}

fn denial() -> Value {
    json!({
        "name": "no-clients", "namespace": "default", "scope": "Namespace", "action": "Deny",
        "rules": [[[{ "principals": [{ "Exact": "cluster.local/ns/default/sa/client" }] }]]]
    })
}

/// Waits until both sides have logged it, and says what each wrote.
#[track_caller]
fn both_logged(mesh: &Mesh, target: SocketAddr) -> [Value; 2] {
    ["outbound", "inbound"].map(|direction| last_logged(mesh.daemon(1), direction, target))
}

/// Catches: an explanation that tells of TLS where there is none, or of a way past the network that is not taken.
#[test]
fn an_explanation_tells_which_way_neighbours_go() {
    let explained = |mesh: &Mesh, destination: &str| {
        let output = mesh.daemon(1).command(&["explain", "default/client", destination]).unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let mesh = plan("client server stranger").pod("stranger", |pod| pod.foreign = true).start().unwrap();
    let said = explained(&mesh, "default/server:8080");
    assert!(said.contains("directly: this daemon serves both"), "{said}");
    assert!(said.contains("=>                  allowed, directly on this node, without TLS"), "{said}");
    assert!(!said.contains("must prove"), "{said}");
    let said = explained(&mesh, "default/stranger:8080");
    assert!(
        said.contains("through the tunnel: ") && said.contains("is not enrolled by this daemon"),
        "{said}"
    );
    drop(mesh);

    let mesh = MeshPlan::new(&["client server"]).start().unwrap();
    let said = explained(&mesh, "default/server:8080");
    assert!(said.contains("through the tunnel: this daemon has `sameNode: tunnel`"), "{said}");
    assert!(said.contains("=>                  allowed, over mutual TLS"), "{said}");
}

/// Catches: a packet on an interface, a strict server that takes it for plaintext, an address or identity that is lost,
/// a metric that calls it encrypted.
#[test]
fn neighbours_talk_past_the_network_and_are_known_to_each_other() {
    let web = json!({
        "name": "web", "namespace": "default", "hostname": "web.default.svc.cluster.local",
        "vips": ["/10.96.0.20", "/fd96::20"], "ports": { "80": PORT },
        "endpoints": { "web": { "workloadUid": Mesh::uid("server"), "port": { "80": PORT } } }
    });
    let mesh = plan("client server").pod("server", |pod| pod.strict = true).service(web).start().unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let echoes = Server::start(server, PORT, Behaviour::Echo).unwrap();
    let captures = [client, server].map(|pod| Capture::start(pod, "eth0", Keep::Everything).unwrap());
    for family in FAMILIES {
        let vip = ["10.96.0.20", "fd96::20"][family].parse().unwrap();
        let target = mesh.address("server", family, PORT);
        for asked in [target, SocketAddr::new(vip, 80)] {
            echo(client, asked).expect("a neighbour answers");
            assert_eq!(echoes.clients().pop().unwrap().ip(), client.ips()[family]);
        }
        for line in both_logged(&mesh, target) {
            assert_eq!(line["path"], "direct", "{line}");
            assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "{line}");
            assert_eq!(line["dst.identity"], Mesh::identity("server").as_str(), "{line}");
        }
    }
    for capture in captures {
        let recording = capture.stop().unwrap();
        recording.complete().unwrap();
        assert!(recording.segments.is_empty(), "{:?}", recording.segments);
    }
    let closed = |labels: &[(&str, &str)]| {
        mesh.daemon(1).metric("istio_tcp_connections_closed_total", labels).unwrap()
    };
    for reporter in ["source", "destination"] {
        let principal = Mesh::identity("client");
        let labels = [
            ("reporter", reporter),
            ("connection_security_policy", "none"),
            ("source_principal", &principal),
        ];
        eventually("both report it", || (closed(&labels) == 4.0).then_some(()));
    }
    assert_eq!(closed(&[("connection_security_policy", "mutual_tls")]), 0.0);
}

/// Catches: a way around policy, at the start and later; and a policy that ends more than it denies.
#[test]
fn policy_decides_at_the_start_and_ends_what_it_no_longer_allows() {
    let mut mesh = plan("client other server").start().unwrap();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, PORT));
    let mut denied = targets.map(|target| Held::open(mesh.pod("client"), target));
    let mut allowed = targets.map(|target| Held::open(mesh.pod("other"), target));
    mesh.change(|plan| plan.policies.push(denial())).unwrap();
    for (held, target) in denied.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset), "it is still open");
        assert!(echo(mesh.pod("client"), target).is_err(), "it was let in");
        for line in both_logged(&mesh, target) {
            let told = (&line["path"], &line["reason"], &line["policy"]);
            assert_eq!(
                told,
                (&json!("direct"), &json!("denied_by_policy"), &json!("default/no-clients")),
                "{line}"
            );
        }
    }
    allowed.iter_mut().for_each(|held| held.still_works(b"of whom nothing was said"));
}

/// Catches: a connection that outlives the enrolment of one of its ends, and a neighbour that is reached as one though it
/// no longer is.
#[test]
fn it_ends_with_the_enrolment_of_either_pod() {
    for leaving in ["client", "server"] {
        let mut mesh = plan("client server").setting("drainDeadline", "1s").start().unwrap();
        let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
        let targets = FAMILIES.map(|family| mesh.address("server", family, PORT));
        let mut held = targets.map(|target| Held::open(mesh.pod("client"), target));
        mesh.change(|plan| plan.pods.entry(leaving.to_owned()).or_default().enrolled = false).unwrap();
        for (held, target) in held.iter_mut().zip(targets) {
            assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset), "{leaving} has left");
            echo(mesh.pod("client"), target).expect("in plaintext, as one of them is not of the mesh");
        }
        eventually("nothing is left of them", || {
            mesh.daemon(1).connections().unwrap().is_empty().then_some(())
        });
    }
}

/// Catches: an application that makes a neighbour believe in another address than the pod's own.
#[test]
fn an_address_that_a_client_claims_is_not_believed() {
    let mesh = plan("client server").start().unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let echoes = Server::start(server, PORT, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, PORT);
        let claimed = SocketAddr::new(mesh.topology().outside_ips()[family], 0);
        // Whether it comes to stand is not the question.
        let _ = client.run(move || Dial::to(target).transparent().from(claimed).exchange(MARKER));
        echo(client, target).unwrap();
    }
    assert!(echoes.clients().iter().all(|seen| client.ips().contains(&seen.ip())), "{:?}", echoes.clients());
}

/// Catches: an end of one direction that ends the other too, or a reset that arrives as a proper end.
#[test]
fn ends_and_resets_arrive_as_what_they_are() {
    let mesh = plan("client server").start().unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _answers = Server::start(server, 8080, Behaviour::AnswerAfterEnd).unwrap();
    let _resets = Server::start(server, 8081, Behaviour::Reset).unwrap();
    let echoes = Server::start(server, 8082, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        let answer = client.run(move || {
            let mut stream = Dial::to(target).connect().unwrap();
            stream.write_all(b"all of the question").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).map(|_| answer).unwrap()
        });
        assert_eq!(answer, b"all of the question");
        let target = mesh.address("server", family, 8081);
        let error = client.run(move || Dial::to(target).exchange(b"?")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(both_logged(&mesh, target).iter().all(|line| line["reason"] == "reset_by_destination"));
        let (target, before) = (mesh.address("server", family, 8082), echoes.resets());
        reset_after_a_byte(client, target);
        eventually("the server sees a reset", || (echoes.resets() > before).then_some(()));
        let closed = mesh.address("server", family, 9);
        let error = client.run(move || Dial::to(closed).read_all()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "nobody is there");
    }
}

/// Catches: a byte lost, repeated, changed or out of place by splice(2), whichever connection it serves.
#[test]
fn large_transfers_arrive_intact_both_ways() {
    const LENGTH: u64 = 256 << 20;
    let mesh = plan("client server").start().unwrap();
    let outside = SocketAddr::new(mesh.topology().outside_ips()[0], 0);
    let neighbour = |family| mesh.address("server", family, 0);
    let server = mesh.pod("server");
    for (place, address) in
        [(&server.place, neighbour(0)), (&server.place, neighbour(1)), (&mesh.topology().outside, outside)]
    {
        let checks = Server::start(place, 8080, Behaviour::Check).unwrap();
        let sends = Server::start(place, 8081, Behaviour::Send(LENGTH)).unwrap();
        let dial = |server: &Server| {
            Dial::to(SocketAddr::new(address.ip(), server.port())).patience(Duration::from_secs(300))
        };
        let (up, down) = (dial(&checks), dial(&sends));
        let sent = mesh.pod("client").spawn(move || send(&up, LENGTH));
        let received = mesh.pod("client").spawn(move || pattern::check(down.connect()?));
        assert_eq!(sent.join().unwrap().unwrap(), LENGTH.to_string(), "to {address}");
        assert_eq!(received.join().unwrap().unwrap(), LENGTH, "from {address}");
    }
}

/// Catches: a pipe that a connection keeps while nothing flows, stalled readers that keep pipes from everybody else, and
/// memory that they take instead without its being counted.
#[test]
fn neither_idle_nor_stalled_connections_hold_pipes() {
    const CONNECTIONS: usize = 60;
    /// What the daemon keeps for the next, and two descriptors each.
    const KEPT: usize = 2 * 16;
    let mesh = plan("client server").start().unwrap();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _echo = Server::start(server, 8080, Behaviour::Echo).unwrap();
    let hold = Server::start(server, 8081, Behaviour::Hold).unwrap();
    let pipes = || pipes_of(mesh.daemon(1).id());
    let before = pipes();
    let target = mesh.address("server", 0, 8080);
    let idle: Vec<TcpStream> = client.run(move || (0..CONNECTIONS).map(|_| busy_once(target)).collect());
    assert!(pipes() > before, "nothing was spliced, so this shows nothing");
    assert!(pipes() <= before + KEPT, "{} by {CONNECTIONS} idle connections", pipes() - before);

    let held = || mesh.daemon(1).metric("ztunnel_limit_used", &[("limit", "window_bytes")]).unwrap();
    assert_eq!(held(), 0.0, "what is held in memory already");
    let target = mesh.address("server", 0, 8081);
    let stalled: Vec<TcpStream> = client.run(move || (0..CONNECTIONS).map(|_| fill(target)).collect());
    eventually("what stalls is put aside", || (pipes() <= before + KEPT).then_some(()));
    eventually("what is in memory instead is counted", || (held() > 0.0).then_some(()));
    drop((idle, stalled, hold));
    eventually("it is given back", || (held() == 0.0).then_some(()));
}

/// It has sent so much that it was spliced, and has the echo of all.
fn busy_once(target: SocketAddr) -> TcpStream {
    const LENGTH: u64 = 2 << 20;
    let stream = Dial::to(target).connect().unwrap();
    let sending = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || pattern::send(sending, LENGTH));
    assert_eq!(pattern::check((&stream).take(LENGTH)).unwrap(), LENGTH);
    sender.join().unwrap().unwrap();
    stream
}

/// Until nothing more is taken for a while.
fn fill(target: SocketAddr) -> TcpStream {
    let mut stream = Dial::to(target).connect().unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    while stream.write(&[7; 64 << 10]).is_ok() {}
    stream
}

fn pipes_of(process: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}
