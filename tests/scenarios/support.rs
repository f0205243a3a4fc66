//! What several groups of scenarios ask.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
};

use serde_json::Value;
use testkit::{
    Daemon, Place,
    capture::Recording,
    client::{self, Dial},
    eventually, pattern,
};

/// Index of each family's address in `Pod::ips`.
pub(crate) const FAMILIES: [usize; 2] = [0, 1];

/// The ended connections of one direction to the application at `target`, as the daemon logged them.
pub(crate) fn logged(daemon: &Daemon, direction: &str, target: SocketAddr) -> Vec<Value> {
    let target = target.to_string();
    let is_it = |line: &Value| {
        let destination =
            if line["dst.hbone_addr"].is_null() { &line["dst.addr"] } else { &line["dst.hbone_addr"] };
        line["direction"] == direction && *destination == target.as_str()
    };
    daemon.access_log().unwrap().into_iter().filter(is_it).collect()
}

/// The last of them, once there is one.
#[track_caller]
pub(crate) fn last_logged(daemon: &Daemon, direction: &str, target: SocketAddr) -> Value {
    eventually(&format!("an {direction} connection to {target} is logged"), || {
        logged(daemon, direction, target).pop()
    })
}

/// Fails unless the recording saw all and nothing but TLS 1.3 on HBONE's port went from `sources`.
#[track_caller]
pub(crate) fn assert_encrypted(recording: &Recording, sources: &[std::net::IpAddr], marker: &[u8]) {
    recording.complete().unwrap();
    for source in sources {
        let plain = recording.plaintext_syns_from(*source);
        assert!(plain.is_empty(), "connection attempts around the mesh: {plain:?}");
    }
    assert!(!recording.contains(marker), "the payload is there in clear");
    let tunnels = recording.tunnels();
    assert!(!tunnels.is_empty(), "nothing went through the mesh");
    for tunnel in tunnels {
        assert!(tunnel.is_tls_1_3(), "not TLS 1.3: {tunnel:?}");
    }
}

/// Fills the table that steering uses with routes. Each is looked at and removed, which takes longer than is waited for.
pub(crate) fn flood_routes(pod: &Place) {
    let routes = (0..300_000_u32).map(|number| {
        let address = std::net::Ipv4Addr::from(0x1400_0000 + number);
        format!("route add local {address} dev lo table 1441\n")
    });
    pod.ip(routes.collect::<String>()).unwrap();
}

/// Sends so much of the pattern, ends, and yields what the server says of what it got.
pub(crate) fn send(dial: &Dial, length: u64) -> io::Result<String> {
    let mut stream = dial.connect()?;
    pattern::send(&stream, length)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Connects to an echo, and resets the connection once it has carried a byte each way.
#[track_caller]
pub(crate) fn reset_after_a_byte(from: &Place, target: SocketAddr) {
    from.run(move || {
        let mut stream = Dial::to(target).connect().unwrap();
        stream.write_all(b"!").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        client::reset(stream).unwrap();
    });
}
