//! Proven peers that use HTTP/2 as a weapon. What they do may end their connection, and nothing else: the daemon
//! stays, its memory stays bounded, applications are not hurt, and the next peer is served.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use rustls::ClientConfig;
use testkit::{
    Daemon, Mesh, eventually,
    server::{Behaviour, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{
    client::{Peer, config, secure},
    failures,
    frames::{
        CANCEL, CONTINUATION, DATA, END_HEADERS, Frames, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, block, encoded, hpack_bomb,
    },
    good, inside, refusals,
};
use crate::support::{FAMILIES, last_logged};

const MARKER: &[u8] = b"through the tunnel";
/// What an attacker may cost the daemon. Its windows allow it as much.
const MOST_GROWTH: u64 = 16 << 20;
/// Who does not read the answers is made to wait, so not every attack comes to its end.
const ATTACK_TIME: Duration = Duration::from_secs(1);
const END_DEADLINE: Duration = Duration::from_secs(20);
/// What a breach is counted as.
const REASONS: [&str; 7] = [
    "http2",
    "http2_excess",
    "http2_flood",
    "http2_flow_control",
    "http2_frame_size",
    "http2_compression",
    "http2_protocol",
];

/// Frames that an attacker sends after HTTP/2's preface.
struct Attack {
    what: &'static str,
    /// Once.
    first: Vec<u8>,
    /// Again and again, told the number of the turn.
    then: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    turns: u32,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The connection ends; counted and logged for this reason.
    End(&'static str),
    /// The attacker has to wait, or is ignored.
    Patience,
}

fn attack(
    what: &'static str,
    first: Vec<u8>,
    then: impl Fn(u32) -> Vec<u8> + Send + 'static,
    turns: u32,
    answer: Answer,
) -> Attack {
    Attack { what, first, then: Box::new(then), turns, answer }
}

/// `target` is an application that reads, `unread` one that does not.
fn attacks(target: &str, unread: &str) -> Vec<Attack> {
    use Answer::{End, Patience};
    const EXCESS: Answer = End("http2_excess");
    const FLOOD: Answer = End("http2_flood");
    const FLOW: Answer = End("http2_flow_control");
    let connect = |target: &str| block(&[(":method", "CONNECT"), (":authority", target)]);
    let (request, stuck) = (connect(target), connect(unread));
    let open = |stream, request: &[u8]| encoded(HEADERS, END_HEADERS, stream, request);
    let reset = |stream| encoded(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    let (request_only, dribbled, shut) = (request.clone(), request.clone(), request.clone());
    let endless = encoded(HEADERS, 0, 1, &request);
    let (again, many) = (request.clone(), request);
    let asked = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    let bomb = encoded(HEADERS, END_HEADERS, 1, &[asked, hpack_bomb()].concat());
    let header = block(&[("x", &"y".repeat(16_000))]);
    let large = encoded(HEADERS, END_HEADERS, 1, &[request_only.as_slice(), &header[..]].concat());
    let window = |stream, bytes: u32| encoded(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    let settings_window = |bytes: u32| encoded(SETTINGS, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat());
    vec![
        // CVE-2023-44487.
        attack(
            "resets",
            vec![],
            move |n| [open(2 * n + 1, &again), reset(2 * n + 1)].concat(),
            20_000,
            EXCESS,
        ),
        attack("too many streams", vec![], move |n| open(2 * n + 1, &many), 20_000, EXCESS),
        // CVE-2024-27316.
        attack("endless headers", endless, move |_| encoded(CONTINUATION, 0, 1, &header), 2_000, EXCESS),
        attack("an HPACK bomb", bomb, |_| vec![], 0, EXCESS),
        attack("a large header", large, |_| vec![], 0, Patience),
        // CVE-2019-9512 and CVE-2019-9515.
        attack("PINGs", vec![], |_| encoded(PING, 0, 0, &[0; 8]), 200_000, FLOOD),
        attack("SETTINGS", vec![], |_| encoded(SETTINGS, 0, 0, &[]), 200_000, FLOOD),
        attack("PRIORITY", vec![], |_| encoded(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]), 200_000, FLOOD),
        // CVE-2019-9518.
        attack("empty DATA", open(1, &stuck), |_| encoded(DATA, 0, 1, &[]), 500_000, EXCESS),
        attack("bytes one by one", open(1, &stuck), |_| encoded(DATA, 0, 1, &[0]), 65_000, EXCESS),
        attack(
            "more than the window",
            open(1, &stuck),
            |_| encoded(DATA, 0, 1, &[0; 16_000]),
            1_000,
            Patience,
        ),
        attack("DATA for nobody", encoded(DATA, 0, 1, MARKER), |_| vec![], 0, End("http2_protocol")),
        attack(
            "a frame too large",
            encoded(DATA, 0, 1, &[0; 100_000]),
            |_| vec![],
            0,
            End("http2_frame_size"),
        ),
        attack("a window of more than there is", window(0, u32::MAX >> 1), |_| vec![], 0, FLOW),
        attack("a window of nothing", window(0, 0), |_| vec![], 0, End("http2_protocol")),
        // CVE-2019-9511: bytes asked for one by one.
        attack("a window opened by the byte", open(1, &dribbled), move |_| window(1, 1), 200_000, FLOOD),
        // CVE-2019-9517: asked for, and never let in.
        attack(
            "a window that is shut and opened",
            open(1, &shut),
            move |n| settings_window(n % 2),
            200_000,
            FLOOD,
        ),
    ]
}

/// Sends it all and reads nothing meanwhile. Yields whether the server ended the connection.
async fn launch(gateway: SocketAddr, config: Arc<ClientConfig>, attack: Attack) -> bool {
    let frames = Frames::open(secure(gateway, config).await.unwrap()).await;
    let (reader, mut writer) = frames.into_parts();
    let sending = async {
        writer.write_all(&attack.first).await?;
        // In large pieces, or it is the attacker who has the work.
        let mut piece = Vec::new();
        for turn in 0..attack.turns {
            piece.extend((attack.then)(turn));
            if piece.len() > 16 << 10 || turn + 1 == attack.turns {
                writer.write_all(&piece).await?;
                piece.clear();
            }
        }
        writer.flush().await
    };
    match timeout(ATTACK_TIME, sending).await {
        Ok(Err(_)) => true,
        _ if attack.answer == Answer::Patience => false,
        _ => timeout(END_DEADLINE, until_the_end(reader)).await.is_ok(),
    }
}

async fn until_the_end(mut reader: ReadHalf<TlsStream<TcpStream>>) {
    let mut buffer = vec![0; 64 << 10];
    while reader.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
}

/// Catches: work or memory that a peer gets for a frame or two, and an attack that nobody hears of.
#[test]
fn http2_is_no_weapon() {
    let mesh = Mesh::start(&["server"]).unwrap();
    let (daemon, outside) = (mesh.daemon(1), &mesh.topology().outside);
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let _held = Server::start(mesh.pod("server"), 8081, Behaviour::Hold).unwrap();
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8080).to_string();
        let unread = mesh.address("server", family, 8081).to_string();
        // The first handshake makes what is made once.
        serves(&mesh, family);
        for attack in attacks(&target, &unread) {
            let (what, answer) = (attack.what, attack.answer);
            let (memory, before) = (daemon.memory().unwrap(), broken(daemon));
            let attacker = config(good(&mesh, "client"));
            let ended = inside(outside, move || launch(gateway, attacker, attack));
            let grown = daemon.memory().unwrap().saturating_sub(memory);
            println!("{what}: {} KiB", grown >> 10);
            assert!(grown < MOST_GROWTH, "{what}: grown by {grown} bytes");
            if let Answer::End(reason) = answer {
                assert!(ended, "{what} goes on");
                let now = eventually(&format!("{what} is counted"), || {
                    Some(broken(daemon)).filter(|now| *now != before)
                });
                assert_eq!(newly(&before, &now), [(reason, 1.0)], "{what}");
            }
            serves(&mesh, family);
        }
    }
    for reason in ["http2_excess", "http2_flood", "http2_flow_control"] {
        refusals(daemon, reason, 1);
    }
    // Of tens of thousands of requests that nobody waited for, few got as far as the application.
    assert!(application.accepted() < 1_000, "{}", application.accepted());
    eventually("nothing is left of it", || daemon.connections().unwrap().is_empty().then_some(()));
}

/// HTTP/2 connections that ended by their peer's fault, by reason.
fn broken(daemon: &Daemon) -> Vec<(&'static str, f64)> {
    let count = |reason| daemon.metric("ztunnel_broken_sessions_total", &[("reason", reason)]).unwrap();
    REASONS.map(|reason| (reason, count(reason))).to_vec()
}

fn newly(before: &[(&'static str, f64)], now: &[(&'static str, f64)]) -> Vec<(&'static str, f64)> {
    let counts = before.iter().zip(now).map(|((reason, before), (_, now))| (*reason, now - before));
    counts.filter(|(_, count)| *count != 0.0).collect()
}

/// Another peer is served.
fn serves(mesh: &Mesh, family: usize) {
    let gateway = mesh.address("server", family, 15008);
    let target = mesh.address("server", family, 8080).to_string();
    let config = config(good(mesh, "client"));
    inside(&mesh.topology().outside, move || async move {
        let peer = Peer::connect(gateway, config).await;
        let mut stream = peer.connect_to(&target).await.expect("200");
        assert_eq!(stream.exchange(MARKER).await.unwrap(), MARKER);
    });
}

/// Catches: an attack at the one moment when the peer is proven and HTTP/2 has not begun.
#[test]
fn what_is_not_http2_inside_tls_is_refused() {
    let mesh = Mesh::start(&["server"]).unwrap();
    let (daemon, outside) = (mesh.daemon(1), &mesh.topology().outside);
    for (number, gateway) in (1..).zip(FAMILIES.map(|family| mesh.address("server", family, 15008))) {
        let config = config(good(&mesh, "client"));
        inside(outside, move || async move {
            let mut tls = secure(gateway, config).await.unwrap();
            tls.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
            let (reader, _writer) = tokio::io::split(tls);
            until_the_end(reader).await;
        });
        eventually("it is counted", || (failures(daemon, "http2") == f64::from(number)).then_some(()));
    }
    assert_eq!(refusals(daemon, "http2", FAMILIES.len()).len(), FAMILIES.len());
}

/// Catches: answers that pile up in the daemon because a peer never says that it has room.
#[test]
fn a_peer_that_opens_no_window_is_sent_no_more_than_it_allows() {
    const STREAMS: usize = 100;
    /// RFC 9113, section 6.9.2: what a peer allows that says nothing, for the whole connection.
    const WINDOW: usize = 65_535;
    let mesh = Mesh::start(&["server"]).unwrap();
    let (daemon, outside) = (mesh.daemon(1), &mesh.topology().outside);
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let _sender = Server::start(mesh.pod("server"), 8081, Behaviour::Send(64 << 20)).unwrap();
    for family in FAMILIES {
        serves(&mesh, family);
        let before = daemon.memory().unwrap();
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8081).to_string();
        let greedy = config(good(&mesh, "client"));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let attacker = super::start_inside(outside, move || async move {
            let peer = Peer::connect(gateway, greedy).await;
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                streams.push(peer.connect_to(&target).await.expect("200"));
            }
            let mut received = 0;
            while received < WINDOW {
                let next = streams.iter_mut().map(|stream| Box::pin(stream.receiver.data()));
                let (data, ..) = futures::future::select_all(next).await;
                received += data.unwrap().unwrap().len();
            }
            tell.send(received).unwrap();
            let _ = stopped.await;
        });
        assert_eq!(told.recv().unwrap(), WINDOW);
        serves(&mesh, family);
        let grown = daemon.memory().unwrap().saturating_sub(before);
        println!("{} KiB", grown >> 10);
        // What may wait in the daemon for each stream, and the buffer it waits in may be half empty.
        assert!(grown < STREAMS as u64 * 2 * (64 << 10), "grown by {grown} bytes");
        drop(stop);
        attacker.join().unwrap();
    }
    assert_eq!(application.accepted(), 2 * FAMILIES.len());
}

/// Catches: data that was cut off on its way and looks complete to the application.
#[test]
fn a_tunnel_that_breaks_off_resets_the_application() {
    let mesh = Mesh::start(&["server"]).unwrap();
    let (daemon, outside) = (mesh.daemon(1), &mesh.topology().outside);
    let application = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let ends = [Break::Fin, Break::Rst];
    for (number, (family, how)) in (1..).zip(FAMILIES.into_iter().flat_map(|f| ends.map(|how| (f, how)))) {
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8080);
        let config = config(good(&mesh, "client"));
        inside(outside, move || break_off(gateway, config, target.to_string(), how));
        eventually("the application is reset", || (application.resets() == number).then_some(()));
        let line = last_logged(daemon, "inbound", target);
        assert_eq!(line["reason"], "connection_lost", "{line}");
    }
}

/// How TCP ends under TLS; without close_notify.
#[derive(Clone, Copy)]
enum Break {
    Fin,
    Rst,
}

async fn break_off(gateway: SocketAddr, config: Arc<ClientConfig>, target: String, how: Break) {
    let tls = secure(gateway, config).await.unwrap();
    if matches!(how, Break::Rst) {
        tls.get_ref().0.set_zero_linger().unwrap();
    }
    let (mut requests, connection) = h2::client::handshake(tls).await.unwrap();
    // Dropped in the end without a word.
    let driver = tokio::spawn(connection);
    let request = http::Request::connect(target).body(()).unwrap();
    let (answer, mut sender) = requests.send_request(request, false).unwrap();
    let mut receiver = answer.await.unwrap().into_body();
    sender.send_data(Bytes::from_static(MARKER), false).unwrap();
    assert_eq!(receiver.data().await.unwrap().unwrap(), MARKER);
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
}
