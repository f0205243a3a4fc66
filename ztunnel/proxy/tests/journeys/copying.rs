//! How bytes and ends travel, through the tunnel and past it.

use std::{io::ErrorKind, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    mesh::{Mesh, OUTSIDE, Options, S1, at},
    observed::{Observed, eventually},
};

/// The two ends of an application's connection, each way that there is from one to the other.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tunnel,
    Passthrough,
    InboundPlaintext,
    Direct,
}

const WAYS: [Way; 4] = [Way::Tunnel, Way::Passthrough, Way::InboundPlaintext, Way::Direct];

/// A world in which `way` is taken.
async fn mesh_of(way: Way) -> Mesh {
    match way {
        Way::Direct => Mesh::with(Options::direct()).await,
        Way::Tunnel | Way::Passthrough | Way::InboundPlaintext => Mesh::new().await,
    }
}

/// The connection has carried a byte each way: it stands.
async fn pair(mesh: &Mesh, way: Way) -> (TcpStream, TcpStream) {
    let (mut client, mut server) = fresh_pair(mesh, way).await;
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    server.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    (client, server)
}

async fn fresh_pair(mesh: &Mesh, way: Way) -> (TcpStream, TcpStream) {
    match way {
        Way::Tunnel | Way::Direct => mesh.pair().await,
        Way::Passthrough => {
            let listener = mesh.net.listen(at(OUTSIDE, 80)).await;
            let client = mesh.connect(at(OUTSIDE, 80)).await;
            (client, listener.accept().await.unwrap().0)
        }
        Way::InboundPlaintext => {
            let listener = mesh.net.listen(at(S1, 8080)).await;
            let client = mesh.connect_in_clear(at(S1, 8080)).await;
            (client, listener.accept().await.unwrap().0)
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn read_error(stream: &mut TcpStream) -> ErrorKind {
    timeout(Duration::from_secs(5), stream.read(&mut [0; 8])).await.expect("noticed").unwrap_err().kind()
}

/// Protocols that end their request with FIN and then wait for the answer would hang or lose it.
#[tokio::test]
async fn each_direction_ends_by_itself() {
    let observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        for client_first in [true, false] {
            let (client, server) = pair(&mesh, way).await;
            let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut second).await, b"question", "{way:?}");
            second.write_all(b"answer").await.unwrap();
            second.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut first).await, b"answer", "{way:?}");
        }
    }
    let completed = || {
        let lines = observed.lines();
        let of = |reason: &str| lines.iter().filter(|line| line.contains(reason)).count();
        // Within the mesh each side has a ledger.
        (of(r#"reason="completed""#) == 12 && of("reason=") == 12).then_some(())
    };
    eventually("every connection completed", completed).await;
}

/// An abort that arrived as FIN would make a truncated answer look complete.
#[tokio::test]
async fn an_abort_arrives_as_an_abort() {
    let observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        for client_aborts in [true, false] {
            let (client, server) = pair(&mesh, way).await;
            let (aborting, mut other) = if client_aborts { (client, server) } else { (server, client) };
            aborting.set_zero_linger().unwrap();
            drop(aborting);
            assert_eq!(read_error(&mut other).await, ErrorKind::ConnectionReset, "{way:?} {client_aborts}");
        }
    }
    for reason in [r#"reason="reset_by_source""#, r#"reason="reset_by_destination""#] {
        let seen =
            || (observed.lines().iter().filter(|line| line.contains(reason)).count() == 6).then_some(());
        eventually(reason, seen).await;
    }
}

/// A server that answers early and closes with the request half read sends its answer and then RST. Over plain TCP
/// the client still reads the answer; if it were lost here, "413 Payload Too Large" would become a mystery.
#[tokio::test]
async fn what_was_sent_before_an_abort_arrives_before_it() {
    let _observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        for client_aborts in [true, false] {
            let (client, server) = pair(&mesh, way).await;
            let (mut aborting, mut other) = if client_aborts { (client, server) } else { (server, client) };
            aborting.write_all(b"last words").await.unwrap();
            aborting.set_zero_linger().unwrap();
            drop(aborting);
            let mut words = [0; 10];
            other
                .read_exact(&mut words)
                .await
                .unwrap_or_else(|error| panic!("{way:?} {client_aborts}: {error}"));
            assert_eq!(&words, b"last words");
            assert_eq!(read_error(&mut other).await, ErrorKind::ConnectionReset, "{way:?}");
        }
    }
}

/// A client that has sent FIN and then vanishes is noticed though nobody reads from it any more; the server would
/// work for nobody and its connection would stay for ever.
#[tokio::test]
async fn an_abort_after_half_close_is_noticed_while_nothing_flows() {
    let _observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        for client_aborts in [true, false] {
            let (client, server) = pair(&mesh, way).await;
            let (mut aborting, mut other) = if client_aborts { (client, server) } else { (server, client) };
            aborting.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut other).await, b"", "{way:?}");
            aborting.set_zero_linger().unwrap();
            drop(aborting);
            let noticed = || other.take_error().unwrap();
            let error = eventually(&format!("{way:?} {client_aborts}"), noticed).await;
            // What Linux makes of a RST that comes after a FIN.
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
    }
}

/// A read that fills its buffer to the last byte says that there may be more. If there is not, nothing else than
/// before may go unnoticed.
#[tokio::test]
async fn an_abort_after_half_close_is_noticed_by_one_that_has_just_sent_a_buffer_full() {
    let _observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        for client_aborts in [true, false] {
            let (client, server) = pair(&mesh, way).await;
            let (mut aborting, mut other) = if client_aborts { (client, server) } else { (server, client) };
            other.write_all(&[7; 4096]).await.unwrap();
            aborting.read_exact(&mut [0; 4096]).await.unwrap();
            aborting.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut other).await, b"", "{way:?}");
            aborting.set_zero_linger().unwrap();
            drop(aborting);
            eventually(&format!("{way:?} {client_aborts}"), || other.take_error().unwrap()).await;
        }
    }
}

/// A writer that never blocks means that a proxy piles up what its reader does not read.
#[tokio::test]
async fn a_writer_waits_for_a_reader_that_does_not_read() {
    let _observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        for client_writes in [true, false] {
            let (client, server) = pair(&mesh, way).await;
            let (mut writer, mut reader) = if client_writes { (client, server) } else { (server, client) };
            let written = write_until_blocked(&mut writer).await;
            // Socket buffers of four sockets and one window; a proxy that piled up would have no bound.
            assert!(written < 48 << 20, "{way:?}: {written} bytes are somewhere");
            writer.set_zero_linger().unwrap();
            let mut rest = vec![0; written];
            reader.read_exact(&mut rest).await.unwrap();
            assert!(rest.iter().all(|&byte| byte == 7), "{way:?}");
        }
    }
}

async fn write_until_blocked(writer: &mut TcpStream) -> usize {
    let block = vec![7; 64 << 10];
    let mut written = 0;
    while written < 64 << 20 {
        match timeout(Duration::from_millis(200), writer.write(&block)).await {
            Ok(count) => written += count.unwrap(),
            Err(_) => break,
        }
    }
    written
}

/// While the far reader does not read, a writer that vanishes must be noticed, not kept until somebody reads.
#[tokio::test]
async fn a_writer_that_vanishes_while_blocked_is_noticed() {
    let _observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        let (mut client, _server) = pair(&mesh, way).await;
        write_until_blocked(&mut client).await;
        client.set_zero_linger().unwrap();
        drop(client);
        eventually(&format!("{way:?}: no open connection"), || {
            (mesh.c1.ledgers.live().is_empty() && mesh.s1.ledgers.live().is_empty()).then_some(())
        })
        .await;
    }
}

/// The same when the other direction has already ended: no read and no write is left that would fail.
#[tokio::test]
async fn a_blocked_writer_that_vanishes_after_half_close_is_noticed() {
    let _observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        for client_writes in [true, false] {
            let (client, server) = pair(&mesh, way).await;
            let (mut writer, mut reader) = if client_writes { (client, server) } else { (server, client) };
            reader.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut writer).await, b"");
            write_until_blocked(&mut writer).await;
            writer.set_zero_linger().unwrap();
            drop(writer);
            eventually(&format!("{way:?} {client_writes}: no open connection"), || {
                (mesh.c1.ledgers.live().is_empty() && mesh.s1.ledgers.live().is_empty()).then_some(())
            })
            .await;
        }
    }
}

/// splice(2) stops at urgent data as if nothing followed: what does would never arrive, or be lost before a proper end.
#[tokio::test]
async fn what_follows_urgent_data_arrives_too() {
    const BEFORE: usize = 1 << 20;
    const AFTER: usize = 1000;
    for way in WAYS {
        for ends in [false, true] {
            let mesh = mesh_of(way).await;
            let (mut client, mut server) = pair(&mesh, way).await;
            let sending = async {
                client.write_all(&vec![b'a'; BEFORE]).await.unwrap();
                client.writable().await.unwrap();
                let urgent = || socket2::SockRef::from(&client).send_out_of_band(b"!");
                assert_eq!(client.async_io(tokio::io::Interest::WRITABLE, urgent).await.unwrap(), 1);
                client.write_all(&[b'b'; AFTER]).await.unwrap();
                if ends {
                    client.shutdown().await.unwrap();
                }
            };
            let receiving = async {
                let mut bytes = vec![0; BEFORE + AFTER];
                server.read_exact(&mut bytes).await.unwrap();
                bytes
            };
            let both = async { tokio::join!(sending, receiving).1 };
            let bytes = timeout(Duration::from_secs(10), both).await.expect("all arrives");
            assert!(bytes[..BEFORE].iter().all(|byte| *byte == b'a'), "{way:?}");
            assert!(bytes[BEFORE..].iter().all(|byte| *byte == b'b'), "{way:?}");
        }
    }
}

/// Buffers that grow, partial writes, windows that fill: none may lose, double or reorder a byte, either way at once.
#[tokio::test]
async fn much_data_arrives_intact_both_ways_at_once() {
    let _observed = Observed::start();
    for way in WAYS {
        let mesh = mesh_of(way).await;
        let (client, server) = pair(&mesh, way).await;
        let client = tokio::spawn(exchange(client, 3));
        let server = tokio::spawn(exchange(server, 5));
        let (from_server, from_client) = (client.await.unwrap(), server.await.unwrap());
        assert!(from_server == pattern(5) && from_client == pattern(3), "{way:?}");
    }
}

async fn exchange(mut stream: TcpStream, seed: usize) -> Vec<u8> {
    let (mut reader, mut writer) = stream.split();
    let sent = async {
        writer.write_all(&pattern(seed)).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, result) = tokio::join!(sent, reader.read_to_end(&mut received));
    result.unwrap();
    received
}

/// No period that divides a buffer.
fn pattern(seed: usize) -> Vec<u8> {
    (0..8 << 20).map(|i: usize| u8::try_from((i * seed + i / 251) % 251).unwrap()).collect()
}
