//! What an operator asks a running daemon, and what it answers: the commands, the pages, and who may change what.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{
    Daemon, Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::{held::Held, support::FAMILIES};

mod config_dump;
mod profiles;
mod recorded;

const PORT: u16 = 8080;
const CLOSED_PORT: u16 = 8081;

/// `client` and `server` are of the mesh, on two nodes; `stranger` is not, and `strict` takes mutual TLS only. Nobody may
/// reach the server's port 8081.
fn mesh() -> Mesh {
    plan().start().unwrap()
}

fn plan() -> MeshPlan {
    let service = json!({
        "name": "web", "namespace": "default", "hostname": "web.default.svc.cluster.local",
        "vips": ["/10.96.0.10"], "ports": { "80": PORT }, "canonical": true,
    });
    let policy = json!({
        "name": "no-8081", "namespace": "default", "scope": "Namespace", "action": "Deny",
        "rules": [[[{ "destinationPorts": [CLOSED_PORT] }]]],
    });
    MeshPlan::new(&["client stranger", "server strict"])
        .pod("stranger", |pod| (pod.enrolled, pod.in_state) = (false, false))
        .pod("strict", |pod| pod.strict = true)
        .pod("server", |pod| {
            pod.says("services", json!({ "default/web.default.svc.cluster.local": {} }));
            pod.says("locality", json!({ "region": "r", "zone": "z", "subzone": "s" }));
        })
        .service(service)
        .policy(policy)
}

fn say(from: &Place, target: SocketAddr) -> io::Result<Vec<u8>> {
    from.run(move || Dial::to(target).exchange(b"hello"))
}

/// Exit status, and both outputs together.
#[track_caller]
fn ztunnel(daemon: &Daemon, arguments: &[&str]) -> (i32, String) {
    let output = daemon.command(arguments).unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().expect("it was killed"), text)
}

/// The cells of the line that has all these in it, by the names of the columns.
#[track_caller]
fn line(table: &str, with: &[&str]) -> BTreeMap<String, String> {
    let cells = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let found = table.lines().skip(1).find(|line| with.iter().all(|part| line.contains(part)));
    let found = found.unwrap_or_else(|| panic!("no line with {with:?} in:\n{table}"));
    cells(table.lines().next().unwrap()).into_iter().zip(cells(found)).collect()
}

/// Catches: a command whose JSON is none, or is about something else than its table.
#[test]
fn every_list_is_there_as_json() {
    let mesh = mesh();
    let (client, target) = (mesh.pod("client"), mesh.address("server", 0, PORT));
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let _held = Held::open(client, target);
    for (command, part) in [
        ("connections", "default/client"),
        ("workloads", "default/strict"),
        ("services", "web.default.svc.cluster.local"),
        ("policies", "no-8081"),
        ("certificates", "spiffe://cluster.local/ns/default/sa/server"),
        ("pods", "default/server"),
        ("plaintext", "accepted"),
    ] {
        let (_, text) = ztunnel(mesh.daemon(2), &[command, "--json"]);
        let json: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"));
        assert!(json.to_string().contains(part), "{command}: no {part}: {json}");
    }
}

/// Catches: a list that leaves somebody out, a filter that does not filter, a table that does not say what JSON does.
#[test]
fn lists_show_the_mesh_filtered_as_tables_and_as_json() {
    let mesh = mesh();
    let daemon = mesh.daemon(2);
    let (status, table) = ztunnel(daemon, &["workloads"]);
    assert_eq!(status, 0, "{table}");
    let server = line(&table, &["server"]);
    assert_eq!((server["NODE"].as_str(), server["PROTOCOL"].as_str()), ("node2", "HBONE"), "{table}");
    assert_eq!(table.lines().count(), 1 + 3, "{table}");
    for (filter, count) in [
        (&["serv"][..], 1),
        (&["--node", "node2"], 2),
        (&["-n", "default"], 3),
        (&["-n", "elsewhere"], 0),
        (&["--limit", "1"], 1),
    ] {
        let (_, text) = ztunnel(daemon, &[&["workloads", "--json"], filter].concat());
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list.as_array().unwrap().len(), count, "{filter:?}: {text}");
    }
    assert!(ztunnel(daemon, &["workloads", "--limit", "1"]).1.contains("2 more of 3"), "nobody is told");

    let web = line(&ztunnel(daemon, &["services"]).1, &["web"]);
    assert_eq!((web["VIP"].as_str(), web["ENDPOINTS"].as_str()), ("10.96.0.10", "1/1 healthy"));
    assert_eq!(line(&ztunnel(daemon, &["policies"]).1, &["no-8081"])["ACTION"], "DENY");
    let pods = ztunnel(daemon, &["pods"]).1;
    assert_eq!(line(&pods, &["server"])["ENROLLED"], "yes", "{pods}");
    let certificate = eventually("the server has its certificate", || {
        let table = ztunnel(daemon, &["certificates", "server"]).1;
        table.contains("valid").then(|| line(&table, &["server"]))
    });
    assert_eq!(certificate["IDENTITY"], Mesh::identity("server"));

    let (status, said) = ztunnel(daemon, &["workloads", "--admin", "127.0.0.1:1"]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("no daemon answers at 127.0.0.1:1") && said.contains("--admin"), "{said}");
    // What is misspelled must not answer another question than was asked.
    let (status, body) = daemon.over_loopback("GET", "/workloads?namespaces=default").unwrap();
    assert_eq!(status, 400, "{body}");
}

/// Catches: a connection that is shown as protected and is not, or the other way round.
#[test]
fn open_connections_say_who_how_and_whether_by_mutual_tls() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("server", family, PORT);
        let _tunnelled = Held::open(mesh.pod("client"), target);
        let _plain = Held::open(mesh.pod("stranger"), target);
        let stranger = mesh.pod("stranger").ips()[family].to_string();
        let table = ztunnel(mesh.daemon(2), &["connections", "server"]).1;
        let inside = line(&table, &["default/client", "hbone"]);
        assert_eq!((inside["MTLS"].as_str(), inside["DIRECTION"].as_str()), ("yes", "inbound"), "{table}");
        let outside = line(&table, &[&stranger]);
        assert_eq!((outside["MTLS"].as_str(), outside["PATH"].as_str()), ("no", "plaintext"), "{table}");
        let plaintext = ztunnel(mesh.daemon(2), &["connections", "--plaintext", "--json"]).1;
        let plaintext: Value = serde_json::from_str(&plaintext).unwrap();
        assert_eq!(plaintext.as_array().unwrap().len(), 1, "{plaintext:#}");
        assert_eq!(plaintext[0]["mutualTls"], false);
        let outbound =
            line(&ztunnel(mesh.daemon(1), &["connections", "-n", "default"]).1, &["default/server"]);
        assert_eq!((outbound["MTLS"].as_str(), outbound["DIRECTION"].as_str()), ("yes", "outbound"));
        let top = ztunnel(mesh.daemon(2), &["top", "--once", "--interval", "300ms"]).1;
        let rest = top.split_once("\n\n").unwrap().1;
        assert_eq!(line(rest, &["default/client", "hbone"])["MTLS"], "yes", "{top}");
        let top = ztunnel(mesh.daemon(2), &["top", "--once", "--interval", "300ms", "--json"]).1;
        let top: Value = serde_json::from_str(&top).unwrap();
        assert!(top[0]["bytesPerSecond"].is_u64() && top[0]["path"].is_string(), "{top:#}");
    }
}

/// Catches: "why was it denied" without an answer, at either end; and an answer that grows with every attempt.
#[test]
fn what_was_refused_is_told_with_reason_and_policy() {
    let mesh = mesh();
    let _servers =
        ["server", "strict"].map(|pod| Server::start(mesh.pod(pod), PORT, Behaviour::Echo).unwrap());
    for family in FAMILIES {
        for _ in 0..2 {
            say(mesh.pod("client"), mesh.address("server", family, CLOSED_PORT)).expect_err("it is denied");
        }
        say(mesh.pod("stranger"), mesh.address("strict", family, PORT)).expect_err("it is strict");
        let stranger = mesh.pod("stranger").ips()[family].to_string();
        let denied = eventually("both are told", || {
            let table = ztunnel(mesh.daemon(2), &["connections", "--denied"]).1;
            (table.contains(&stranger) && table.contains("default/no-8081")).then_some(table)
        });
        let address = mesh.address("server", family, CLOSED_PORT);
        let by_policy = eventually("both attempts are one line", || {
            let list = mesh.daemon(2).admin("/refusals?reason=denied_by_policy").unwrap();
            let lines = list.as_array().unwrap().clone();
            lines
                .into_iter()
                .find(|line| line["destinationAddress"] == address.to_string() && line["count"] == 2)
        });
        assert_eq!(by_policy["policy"], "default/no-8081");
        assert_eq!(by_policy["source"]["identity"], Mesh::identity("client"));
        assert_eq!(line(&denied, &[&stranger])["REASON"], "plaintext_in_strict", "{denied}");
        let of_policy =
            ztunnel(mesh.daemon(2), &["connections", "--denied", "--policy", "default/no-8081"]).1;
        assert!(!of_policy.contains("plaintext_in_strict"), "{of_policy}");
    }
    // Garbage instead of a handshake: nobody has an identity, and still it is told.
    let tunnel = mesh.address("server", 0, 15008);
    let _ = mesh.pod("stranger").run(move || Dial::to(tunnel).exchange(b"no TLS at all"));
    eventually("the refused handshake is told", || {
        let list = mesh.daemon(2).admin("/refusals").unwrap();
        list.as_array().unwrap().iter().any(|line| line["handshake"] == true).then_some(())
    });
}

#[track_caller]
fn explained(daemon: &Daemon, status: i32, source: &str, destination: &str, parts: &[&str]) {
    let (exit, said) = ztunnel(daemon, &["explain", source, destination]);
    assert_eq!(exit, status, "{source} to {destination}: {said}");
    for part in parts {
        assert!(said.contains(part), "{source} to {destination}, without `{part}`:\n{said}");
    }
}

/// Catches: an explanation by other rules than the daemon's own, or one that hides what only the daemon knows.
#[test]
fn a_live_explanation_says_what_becomes_of_a_connection() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let daemon = mesh.daemon(2);
    let [client, server] = ["client", "server"].map(Mesh::identity);
    eventually("the server has its certificate", || {
        ztunnel(daemon, &["certificates", "server"]).1.contains("valid").then_some(())
    });
    explained(
        daemon,
        0,
        "default/client",
        "web.default.svc.cluster.local",
        &[
            &client,
            &server,
            "service default/web",
            "=>                  allowed, over mutual TLS",
            "destination's SVID  valid",
        ],
    );
    explained(
        daemon,
        0,
        "default/client",
        "default/server:8080",
        &["destination's pod   enrolled here", "on node node1"],
    );
    explained(daemon, 0, "192.0.2.1", "default/server:8080", &["allowed, in plaintext"]);
    explained(
        daemon,
        1,
        "192.0.2.1",
        "default/strict:8080",
        &["refused: plaintext_in_strict", "strict by the workload"],
    );
    explained(
        daemon,
        1,
        "default/client",
        "default/server:8081",
        &["default/no-8081 (DENY) matches", "refused: denied_by_policy"],
    );
    explained(daemon, 2, "default/nobody", "default/server:8080", &["`default/nobody` is no workload"]);
    explained(daemon, 2, "default/client", "nowhere.example", &["`nowhere.example` is neither"]);
    say(mesh.pod("client"), mesh.address("server", 0, CLOSED_PORT)).expect_err("it is denied");
    eventually("what was seen is told", || {
        let said = ztunnel(daemon, &["explain", "default/client", "default/server:8081"]).1;
        said.contains("seen lately         1 refused or failed").then_some(())
    });
}

/// Catches: a change that anybody on loopback may make, and a socket that others may open.
#[test]
fn only_the_socket_changes_anything() {
    let mesh = mesh();
    let daemon = mesh.daemon(1);
    for path in ["/logging?level=trace", "/quitquitquit"] {
        let (status, body) = daemon.over_loopback("POST", path).unwrap();
        assert_eq!(status, 403, "{path}: {body}");
        assert!(body.contains(&daemon.socket().display().to_string()), "it does not say where to go: {body}");
    }
    for (method, path) in
        [("POST", "/config_dump"), ("GET", "/quitquitquit"), ("PUT", "/logging"), ("DELETE", "/")]
    {
        let status = daemon.over_loopback(method, path).unwrap().0;
        assert!(status == 405 || path == "/", "{method} {path}: {status}");
    }
    assert_eq!(daemon.over_loopback("GET", "/debug/pprof/profile").unwrap().0, 403);
    assert_eq!(daemon.admin("/logging").unwrap()["level"], "info", "it was changed");
    let mode = std::fs::symlink_metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(daemon.over_socket("GET", "/logging?format=text").unwrap().0, 200);
}

/// How many lines the log has of this target.
fn lines_of(daemon: &Daemon, target: &str) -> usize {
    daemon.log_lines().unwrap().iter().filter(|line| line["target"] == target).count()
}

/// Catches: a level that is shown and not in force, in force and not shown, or that does not go back.
#[test]
fn what_is_logged_changes_by_module_and_back() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let (daemon, target) = (mesh.daemon(1), mesh.address("server", 0, PORT));
    let connect = || say(mesh.pod("client"), target).unwrap();
    let told = || eventually("the connection is logged", || (lines_of(daemon, "access") > 0).then_some(()));
    connect();
    told();
    assert_eq!(ztunnel(daemon, &["log"]), (0, "current log level is info\n".to_owned()));
    assert_eq!(
        ztunnel(daemon, &["log", "access=off"]),
        (0, "current log level is access=off,info\n".to_owned())
    );
    eventually("what was under way is logged", || daemon.connections().unwrap().is_empty().then_some(()));
    let before = lines_of(daemon, "access");
    connect();
    eventually("the connection has ended", || daemon.connections().unwrap().is_empty().then_some(()));
    let shown = || serde_json::from_str::<Value>(&ztunnel(daemon, &["log", "--json"]).1).unwrap();
    assert_eq!(shown(), json!({ "level": "access=off,info", "configured": "info" }));
    let reset = ztunnel(daemon, &["log", "--reset", "--json"]).1;
    assert_eq!(
        serde_json::from_str::<Value>(&reset).unwrap(),
        json!({ "level": "info", "configured": "info" })
    );
    connect();
    eventually("it is logged again", || (lines_of(daemon, "access") > before).then_some(()));
    assert_eq!(lines_of(daemon, "access"), before + 1, "what was off was logged");
    let (status, said) = ztunnel(daemon, &["log", "loud"]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("Invalid level provided: loud"), "{said}");
    assert_eq!(daemon.over_socket("POST", "/logging?level=loud").unwrap().0, 400);
    assert_eq!(daemon.admin("/logging").unwrap()["level"], "info");
}

/// Catches: an end that cuts what a drain would have let end, and one that does not come.
#[test]
fn quitting_drains_as_a_signal_does() {
    let mut mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let mut held = Held::open(mesh.pod("client"), mesh.address("server", 0, PORT));
    let mut daemon = mesh.take_daemon(1).unwrap();
    let answer = daemon.over_socket("POST", "/quitquitquit").unwrap();
    assert_eq!(answer, (200, b"shutdown now\n".to_vec()));
    eventually("it is no longer ready", || (!daemon.is_ready()).then_some(()));
    held.still_works(b"while it drains");
    drop(held);
    let status = daemon.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{status}");
    assert!(!daemon.socket().exists(), "its socket is left behind");
}

/// Catches: readers that hold a page each in memory, or keep others, and enrolment, from being served. A page is so long
/// here that a few of them would show.
#[test]
fn slow_readers_cost_nothing_and_do_not_close_the_socket() {
    use std::io::Write;
    const WORKLOADS: usize = 8000;
    const MOST: u64 = 16 << 20;
    let crowd = (0..WORKLOADS).fold(plan(), |plan, number| {
        let name = format!("one-of-many-{number}");
        let ip = format!("10.200.{}.{}", number / 250, number % 250 + 1);
        plan.workload(
            json!({ "uid": Mesh::uid(&name), "name": name, "namespace": "crowd", "workloadIps": [ip] }),
        )
    });
    let mesh = crowd.start().unwrap();
    let daemon = mesh.daemon(1);
    let (_, page) = daemon.over_loopback("GET", "/config_dump").unwrap();
    let page = page.len() as u64;
    assert!(4 * page > MOST, "{page} bytes are too few to show anything");
    let before = daemon.memory().unwrap();
    let slow: Vec<_> = (0..40)
        .map(|_| {
            daemon.place().run(|| {
                let mut stream = std::net::TcpStream::connect("127.0.0.1:15000").unwrap();
                stream.write_all(b"GET /config_dump HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                stream
            })
        })
        .collect();
    let started = Instant::now();
    let (status, table) = ztunnel(daemon, &["workloads", "-n", "default"]);
    assert_eq!(status, 0, "{table}");
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    assert!(daemon.is_ready());
    std::thread::sleep(Duration::from_secs(1));
    let more = daemon.memory().unwrap().saturating_sub(before);
    assert!(more < MOST, "they hold {more} bytes; a page has {page}");
    drop(slow);
}

/// Catches: a node that its kubelet takes for dead since pods hold all the places at readiness.
#[test]
fn silent_connections_from_pods_do_not_starve_readiness() {
    const SILENT: usize = 300;
    let mesh = mesh();
    let daemon = mesh.daemon(1);
    for family in FAMILIES {
        let ip = mesh.node(1).daemon_ips()[family];
        let held: Vec<_> = ["client", "stranger"]
            .map(|pod| {
                mesh.pod(pod).run(move || {
                    let open =
                        |port| Dial::to(SocketAddr::new(ip, port)).patience(Duration::from_secs(1)).connect();
                    (0..SILENT).filter_map(|number| open([15021, 15020][number % 2]).ok()).collect::<Vec<_>>()
                })
            })
            .into_iter()
            .flatten()
            .collect();
        assert!(held.len() > 64, "only {} were let in so far", held.len());
        for _ in 0..20 {
            let started = Instant::now();
            assert!(daemon.is_ready(), "while {} connections say nothing", held.len());
            // A probe has one second by default.
            assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(daemon.metrics().is_ok(), "metrics are not to be had");
    }
}
