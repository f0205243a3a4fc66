//! Proven servers that use HTTP/2 as a weapon against who dials them. What they do may end the connections to them, and
//! nothing else: the daemon stays, says why, its memory stays bounded, and the pod's other connections go on.

use std::{
    io::{ErrorKind, Read},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use testkit::{
    Daemon, Mesh, MeshPlan,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, split},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    frames::{
        ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, PUSH_PROMISE,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, block, encoded, hpack_bomb,
    },
    good, refusals,
    server::{Gateway, config},
};
use crate::support::FAMILIES;

const MARKER: &[u8] = b"elsewhere";
const PORT: u16 = 8080;
/// What an attacker may cost the daemon.
const MOST_GROWTH: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// The indexed header `:status: 200` of HPACK's static table.
const OK: &[u8] = &[0x88];
const BROKEN: &str = "ztunnel_broken_sessions_total";

/// Frames that a server sends once it has been asked for a connection, which is stream 1.
struct Attack {
    what: &'static str,
    first: Vec<u8>,
    /// Again and again, told the number of the turn.
    then: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
    turns: u32,
    reason: &'static str,
}

fn attack(
    what: &'static str,
    first: Vec<u8>,
    then: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
    turns: u32,
    reason: &'static str,
) -> Attack {
    Attack { what, first, then: Box::new(then), turns, reason }
}

fn attacks() -> Vec<Attack> {
    const EXCESS: &str = "http2_excess";
    const FLOOD: &str = "http2_flood";
    const FLOW: &str = "http2_flow_control";
    const PROTOCOL: &str = "http2_protocol";
    let open = || encoded(HEADERS, END_HEADERS, 1, OK);
    let window = |stream, bytes: u32| encoded(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    let settings_window = |bytes: u32| encoded(SETTINGS, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat());
    let header = block(&[("x", &"y".repeat(16_000))]);
    let bomb = [OK, &hpack_bomb()[..]].concat();
    let promise = [&2_u32.to_be_bytes()[..], &block(&[(":method", "GET"), (":path", "/")])].concat();
    let none = |_| vec![];
    vec![
        attack("PINGs", vec![], |_| encoded(PING, 0, 0, &[0; 8]), 200_000, FLOOD),
        attack("SETTINGS", vec![], |_| encoded(SETTINGS, 0, 0, &[]), 200_000, FLOOD),
        attack("PRIORITY", vec![], |_| encoded(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]), 200_000, FLOOD),
        attack("GOAWAYs", vec![], |_| encoded(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), 200_000, FLOOD),
        // Its client resets nothing, so what bounds resets of clients does not bound these.
        attack("resets", open(), |_| encoded(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()), 200_000, FLOOD),
        // Each says that the answer is yet to come: `:status: 100`.
        attack(
            "answers that are none",
            vec![],
            |_| encoded(HEADERS, END_HEADERS, 1, &block(&[(":status", "100")])),
            200_000,
            FLOOD,
        ),
        attack("a window opened by the byte", open(), move |_| window(1, 1), 200_000, FLOOD),
        attack("a window that is shut and opened", open(), move |n| settings_window(n % 2), 200_000, FLOOD),
        attack(
            "endless headers",
            encoded(HEADERS, 0, 1, OK),
            move |_| encoded(CONTINUATION, 0, 1, &header),
            2_000,
            EXCESS,
        ),
        attack("an HPACK bomb", encoded(HEADERS, END_HEADERS, 1, &bomb), none, 0, EXCESS),
        attack("empty DATA", open(), |_| encoded(DATA, 0, 1, &[]), 500_000, EXCESS),
        attack("bytes one by one", open(), |_| encoded(DATA, 0, 1, &[0]), 65_000, EXCESS),
        attack("DATA for nobody", encoded(DATA, 0, 3, MARKER), none, 0, PROTOCOL),
        attack("a promise", encoded(PUSH_PROMISE, END_HEADERS, 1, &promise), none, 0, PROTOCOL),
        attack("a frame too large", encoded(DATA, 0, 1, &[0; 100_000]), none, 0, "http2_frame_size"),
        attack("a window of more than there is", window(0, u32::MAX >> 1), none, 0, FLOW),
        attack("a window of nothing", window(0, 0), none, 0, PROTOCOL),
    ]
}

/// TLS and the server's half of HTTP/2's beginning, until the first CONNECT.
async fn meet(tcp: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
    tls.write_all(&[encoded(SETTINGS, 0, 0, &[]), encoded(SETTINGS, ACK, 0, &[])].concat()).await?;
    tls.flush().await?;
    let mut preface = [0; PREFACE.len()];
    tls.read_exact(&mut preface).await?;
    assert_eq!(preface, PREFACE);
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tls.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await?;
        if head[3] == HEADERS {
            return Ok(tls);
        }
    }
}

/// Until the client ends the connection, or has read it all. What it says meanwhile is read, so that it never waits.
async fn launch(tcp: TcpStream, config: Arc<ServerConfig>, attack: Arc<Attack>) {
    let Ok(tls) = meet(tcp, config).await else { return };
    let (reader, mut writer) = split(tls);
    let sending = async {
        writer.write_all(&attack.first).await?;
        // In large pieces, or it is the attacker who has the work.
        let mut piece = Vec::new();
        for turn in 0..attack.turns {
            piece.extend((attack.then)(turn));
            if piece.len() > 16 << 10 {
                writer.write_all(&piece).await?;
                piece.clear();
            }
        }
        writer.write_all(&piece).await?;
        writer.flush().await
    };
    // It fails when the client has had enough.
    let _ = tokio::join!(sending, until_the_end(reader));
}

async fn until_the_end(mut reader: ReadHalf<TlsStream<TcpStream>>) {
    let mut buffer = vec![0; 64 << 10];
    while reader.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
}

fn broken(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric(BROKEN, &[("role", "outbound"), ("reason", reason)]).unwrap()
}

fn all_broken(daemon: &Daemon) -> f64 {
    daemon.metric(BROKEN, &[]).unwrap()
}

/// Catches: work or memory that a server gets of its clients' node for a frame or two, and an attack that nobody hears of.
#[test]
fn http2_is_no_weapon_of_servers() {
    let mesh = MeshPlan::new(&["client", "foreign server"]).pod("foreign", |pod| pod.foreign = true);
    let mesh = mesh.start().unwrap();
    let daemon = mesh.daemon(1);
    let _echo = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let config = config(good(&mesh, "foreign"));
    for family in FAMILIES {
        let target = mesh.address("foreign", family, PORT);
        let other = Dial::to(mesh.address("server", family, PORT));
        assert_eq!(exchange(&mesh, &other), MARKER);
        for attack in attacks() {
            let (what, reason) = (attack.what, attack.reason);
            let before = (daemon.memory().unwrap(), broken(daemon, reason), all_broken(daemon));
            let (config, attack) = (Arc::clone(&config), Arc::new(attack));
            let gateway = Gateway::start(&mesh.pod("foreign").place, move |tcp, _| {
                launch(tcp, Arc::clone(&config), Arc::clone(&attack))
            });
            // It reads nothing before the end, so that what comes may pile up.
            let dial = Dial::to(target).patience(PATIENCE);
            let mut victim = mesh.pod("client").run(move || dial.connect().unwrap());
            eventually(&format!("{what} is counted as {reason}"), || {
                (broken(daemon, reason) == before.1 + 1.0).then_some(())
            });
            assert_eq!(all_broken(daemon), before.2 + 1.0, "{what}: counted twice");
            let ended = victim.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
            assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{what}");
            let grown = daemon.memory().unwrap().saturating_sub(before.0);
            println!("{what}: {} KiB", grown >> 10);
            assert!(grown < MOST_GROWTH, "{what}: grown by {grown} bytes");
            drop(gateway);
            assert_eq!(exchange(&mesh, &other), MARKER, "{what}");
        }
    }
    for reason in ["http2_excess", "http2_flood", "http2_flow_control", "http2_protocol", "http2_frame_size"]
    {
        refusals(daemon, reason, 1);
        let listed = daemon.admin(&format!("/refusals?reason={reason}")).unwrap();
        let entry = &listed[0];
        assert_eq!(entry["role"], "outbound", "{listed}");
        assert_eq!(entry["source"]["identity"], Mesh::identity("client"), "{listed}");
        assert_eq!(entry["destination"]["identity"], Mesh::identity("foreign"), "{listed}");
    }
    eventually("nothing is left of it", || daemon.connections().unwrap().is_empty().then_some(()));
}

fn exchange(mesh: &Mesh, other: &Dial) -> Vec<u8> {
    let dial = other.clone();
    mesh.pod("client").run(move || dial.exchange(MARKER).expect("others go on"))
}
