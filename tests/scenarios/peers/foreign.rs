//! Servers of HBONE that are not ours: who must not be trusted, refuses, stalls, or has limits. The application's
//! connection stands before anything is known of them, so whatever fails must look like a failure: a reset.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    version::{TLS12, TLS13},
};
use serde_json::Value;
use testkit::{
    Mesh, MeshPlan,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Authority,
    authority::{expired, for_clients},
    client::H2,
    good,
    server::{Gateway, LAST_WORDS, config, config_of, ports, speak},
};
use crate::support::{FAMILIES, last_logged, logged};

const MARKER: &[u8] = b"only for the right server";
/// What fails at once is far from this.
const DEADLINE: Duration = Duration::from_secs(30);
const STREAMS: u32 = 100;

/// `foreign` is behind another proxy than ours.
fn mesh() -> Mesh {
    plan().setting("connectDeadline", "30s").setting("handshakeDeadline", "30s").start().unwrap()
}

fn plan() -> MeshPlan {
    MeshPlan::new(&["client", "foreign server"]).pod("foreign", |pod| pod.foreign = true)
}

/// The application asks; yields how that ended and how long it took.
fn ask(mesh: &Mesh, target: SocketAddr) -> (Result<Vec<u8>, ErrorKind>, Duration) {
    let dial = Dial::to(target).patience(2 * DEADLINE);
    let started = Instant::now();
    let answer = mesh.pod("client").run(move || dial.exchange(MARKER)).map_err(|error| error.kind());
    (answer, started.elapsed())
}

/// The application's connection is reset long before the deadline, and the log says why.
#[track_caller]
fn assert_reset(mesh: &Mesh, target: SocketAddr, reason: &str, what: &str) {
    let before = logged(mesh.daemon(1), "outbound", target).len();
    let (answer, took) = ask(mesh, target);
    assert_eq!(answer, Err(ErrorKind::ConnectionReset), "{what}");
    assert!(took < DEADLINE / 2, "{what}: took {took:?}");
    let line = logged_after(mesh, target, before);
    assert_eq!(line["reason"], reason, "{what}: {line}");
}

#[track_caller]
fn logged_after(mesh: &Mesh, target: SocketAddr, before: usize) -> Value {
    eventually("it is logged", || logged(mesh.daemon(1), "outbound", target).into_iter().nth(before))
}

fn servers(mesh: &Mesh) -> Vec<(&'static str, Arc<ServerConfig>, &'static str)> {
    let own = Authority::of(mesh);
    let right = &*Mesh::identity("foreign");
    let other = &*Mesh::identity("server");
    let leaf = |uris: &[&str]| own.leaf(uris, |_| ());
    vec![
        ("another workload", config(leaf(&[other])), "peer_identity"),
        (
            "another trust domain",
            config(leaf(&["spiffe://other.example/ns/default/sa/foreign"])),
            "peer_identity",
        ),
        ("two identities", config(leaf(&[right, other])), "not_one_spiffe_id"),
        ("no identity", config(leaf(&[])), "not_one_spiffe_id"),
        ("expired", config(own.leaf(&[right], expired)), "expired_certificate"),
        ("another root", config(Authority::stranger().leaf(&[right], |_| ())), "unknown_ca"),
        (
            "another root of the same name",
            config(Authority::namesake(mesh).leaf(&[right], |_| ())),
            "bad_certificate",
        ),
        (
            "signed by a mere workload",
            config(Authority::upstart(mesh, other).leaf(&[right], |_| ())),
            "bad_certificate",
        ),
        ("good for clients only", config(own.leaf(&[right], for_clients)), "bad_certificate"),
        ("TLS 1.2", config_of(&TLS12, leaf(&[right]), H2), "tls_version"),
        ("HTTP/1.1 by ALPN", config_of(&TLS13, leaf(&[right]), &[b"http/1.1"]), "alpn"),
        ("no ALPN", config_of(&TLS13, leaf(&[right]), &[]), "alpn"),
    ]
}

/// Catches: an application's bytes in the hands of whoever took over an address, and a failure that looks like an end.
#[test]
fn a_server_that_does_not_prove_the_right_identity_gets_nothing() {
    let mesh = mesh();
    let place = &mesh.pod("foreign").place;
    for (what, config, reason) in servers(&mesh) {
        let gateway = Gateway::start(place, move |tcp, _| speak(tcp, Arc::clone(&config), STREAMS));
        for family in FAMILIES {
            assert_reset(&mesh, mesh.address("foreign", family, ports::ECHO), reason, what);
        }
        assert_eq!(gateway.accepted(), FAMILIES.len(), "{what}: tried again");
    }
    // The same with the right certificate, or all of the above proves nothing.
    let config = config(good(&mesh, "foreign"));
    let _gateway = Gateway::start(place, move |tcp, _| speak(tcp, Arc::clone(&config), STREAMS));
    for family in FAMILIES {
        let target = mesh.address("foreign", family, ports::ECHO);
        let before = logged(mesh.daemon(1), "outbound", target).len();
        assert_eq!(ask(&mesh, target).0.unwrap(), MARKER);
        let line = logged_after(&mesh, target, before);
        assert_eq!(line["dst.identity"], Mesh::identity("foreign").as_str(), "{line}");
    }
}

/// Catches: an error of the far side that reaches the application late, or as an end of data.
#[test]
fn whatever_goes_wrong_at_the_server_resets_the_application() {
    let mesh = mesh();
    let place = &mesh.pod("foreign").place;
    for family in FAMILIES {
        assert_reset(&mesh, mesh.address("foreign", family, 8080), "connect", "nobody listens");
    }
    {
        let _gateway = Gateway::start(place, |tcp, _| async move { drop(tcp) });
        for family in FAMILIES {
            assert_reset(&mesh, mesh.address("foreign", family, 8080), "handshake_closed", "it hangs up");
        }
    }
    {
        let _gateway = Gateway::start(place, |mut tcp: TcpStream, _| async move {
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        });
        for family in FAMILIES {
            assert_reset(&mesh, mesh.address("foreign", family, 8080), "not_tls", "it speaks HTTP");
        }
    }
    let config = config(good(&mesh, "foreign"));
    let gateway = Gateway::start(place, move |tcp, _| speak(tcp, Arc::clone(&config), STREAMS));
    for family in FAMILIES {
        for status in [400, 401, 404, 503] {
            let target = mesh.address("foreign", family, ports::STATUS + status);
            assert_reset(&mesh, target, "refused_by_peer", "a refusal");
            let line = last_logged(mesh.daemon(1), "outbound", target);
            assert!(line["error"].as_str().unwrap().contains(&status.to_string()), "{line}");
        }
        assert_reset(&mesh, mesh.address("foreign", family, ports::RESET), "reset_by_peer", "RST_STREAM");
        assert_eq!(ask(&mesh, mesh.address("foreign", family, ports::ECHO)).0.unwrap(), MARKER);
    }
    assert_eq!(gateway.accepted(), FAMILIES.len(), "a refusal is no reason for another connection");
}

/// Catches: a transfer that was cut off and looks complete.
#[test]
fn a_stream_that_breaks_off_is_never_mistaken_for_one_that_ended() {
    let mesh = mesh();
    let config = config(good(&mesh, "foreign"));
    let place = &mesh.pod("foreign").place;
    let _gateway = Gateway::start(place, move |tcp, _| speak(tcp, Arc::clone(&config), STREAMS));
    for family in FAMILIES {
        for (port, reason) in [(ports::RESET_LATER, "reset_by_destination"), (ports::CUT, "connection_lost")]
        {
            let target = mesh.address("foreign", family, port);
            let dial = Dial::to(target);
            let (words, error) = mesh.pod("client").run(move || {
                let mut stream = dial.connect().unwrap();
                stream.write_all(MARKER).unwrap();
                let mut words = vec![0; LAST_WORDS.len()];
                stream.read_exact(&mut words).unwrap();
                stream.write_all(MARKER).unwrap();
                (words, stream.read(&mut [0]).map_err(|error| error.kind()))
            });
            assert_eq!((&*words, error), (LAST_WORDS, Err(ErrorKind::ConnectionReset)), "{port}");
            assert_eq!(last_logged(mesh.daemon(1), "outbound", target)["reason"], reason);
        }
    }
}

/// Catches: a server that takes connections and says nothing, and has applications wait for ever, or those of others.
#[test]
fn a_silent_server_costs_its_own_clients_the_deadline_and_others_nothing() {
    let mesh = plan().setting("connectDeadline", "4s").setting("handshakeDeadline", "2s").start().unwrap();
    let place = &mesh.pod("foreign").place;
    let _echo = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let secure = config(good(&mesh, "foreign"));
    for (port, reason, least) in [(8080, "handshake_deadline", 2), (ports::SILENCE, "connect_deadline", 4)] {
        let secure = (port == ports::SILENCE).then(|| Arc::clone(&secure));
        let _gateway = Gateway::start(place, move |tcp, _| {
            let secure = secure.clone();
            async move {
                match secure {
                    Some(config) => speak(tcp, config, STREAMS).await,
                    None => silence(tcp).await,
                }
            }
        });
        let waiting = FAMILIES.map(|family| {
            let dial = Dial::to(mesh.address("foreign", family, port)).patience(DEADLINE);
            mesh.pod("client").spawn(move || {
                let started = Instant::now();
                (dial.exchange(MARKER).map_err(|error| error.kind()), started.elapsed())
            })
        });
        eventually("both wait", || (mesh.daemon(1).connections().unwrap().len() == 2).then_some(()));
        for family in FAMILIES {
            assert_eq!(ask(&mesh, mesh.address("server", family, 8080)).0.unwrap(), MARKER);
        }
        let still_waiting = mesh.daemon(1).connections().unwrap();
        assert_eq!(
            still_waiting.iter().filter(|one| one["established"] == false).count(),
            2,
            "others went ahead"
        );
        for (family, thread) in waiting.into_iter().enumerate() {
            let (answer, took) = thread.join().unwrap();
            assert_eq!(answer, Err(ErrorKind::ConnectionReset));
            assert!((Duration::from_secs(least)..DEADLINE / 2).contains(&took), "{port}: {took:?}");
            let line = last_logged(mesh.daemon(1), "outbound", mesh.address("foreign", family, port));
            assert_eq!(line["reason"], reason, "{line}");
        }
    }
}

async fn silence(tcp: TcpStream) {
    std::future::pending::<()>().await;
    drop(tcp);
}

/// Catches: a connection that is used on after GOAWAY, or whose other streams it takes along.
#[test]
fn after_goaway_open_streams_go_on_and_new_ones_go_elsewhere() {
    let mesh = mesh();
    let config = config(good(&mesh, "foreign"));
    let place = &mesh.pod("foreign").place;
    let gateway = Gateway::start(place, move |tcp, _| speak(tcp, Arc::clone(&config), STREAMS));
    for family in FAMILIES {
        // One after the other: the second brings GOAWAY.
        let mut open = [ports::ECHO, ports::LAST].map(|port| {
            let dial = Dial::to(mesh.address("foreign", family, port));
            let mut stream = mesh.pod("client").run(move || dial.connect().unwrap());
            echo(&mut stream);
            stream
        });
        assert_eq!(gateway.accepted(), 2 * family + 1, "both share a connection");
        assert_eq!(ask(&mesh, mesh.address("foreign", family, ports::ECHO)).0.unwrap(), MARKER);
        assert_eq!(gateway.accepted(), 2 * family + 2);
        open.iter_mut().for_each(echo);
    }
}

/// Catches: connections that fail or wait where another tunnel would do.
#[test]
fn a_server_that_allows_one_stream_gets_a_connection_for_each() {
    const AT_ONCE: usize = 10;
    let mesh = mesh();
    let config = config(good(&mesh, "foreign"));
    let place = &mesh.pod("foreign").place;
    let gateway = Gateway::start(place, move |tcp, _| speak(tcp, Arc::clone(&config), 1));
    for family in FAMILIES {
        let target = mesh.address("foreign", family, ports::ECHO);
        let connecting: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                mesh.pod("client").spawn(move || {
                    let mut stream = Dial::to(target).connect().unwrap();
                    echo(&mut stream);
                    stream
                })
            })
            .collect();
        let open: Vec<_> = connecting.into_iter().map(|thread| thread.join().expect("an echo")).collect();
        assert_eq!(open.len(), AT_ONCE);
        assert!(gateway.accepted() >= AT_ONCE * (family + 1), "{}", gateway.accepted());
    }
}

fn echo(stream: &mut std::net::TcpStream) {
    stream.write_all(MARKER).unwrap();
    let mut answer = vec![0; MARKER.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, MARKER);
}
