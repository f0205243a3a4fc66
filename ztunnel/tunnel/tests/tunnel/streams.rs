//! A stream is a TCP connection: each direction ends on its own, and a reset is told from an end.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::StatusCode;
use ztunnel_tunnel::{ConnectHeaders, DialError, StreamError, TunnelReceiver, TunnelSender};

use crate::mesh::{Event, Mesh};

async fn read_all(receiver: &mut TunnelReceiver) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(data) = receiver.receive().await? {
        all.extend_from_slice(&data);
    }
    Ok(all)
}

async fn send_all(sender: &mut TunnelSender, data: &Arc<[u8]>) {
    for part in data.chunks(40_000) {
        sender.send(Bytes::copy_from_slice(part)).await.unwrap();
    }
    sender.finish().unwrap();
}

#[track_caller]
fn assert_reset<T: std::fmt::Debug>(result: &Result<T, StreamError>) {
    assert!(matches!(result, Err(StreamError::Reset(Reason::CANCEL))), "{result:?}");
}

/// Fails if bytes are lost, reordered or held back when both directions are full at once.
#[tokio::test]
async fn megabytes_arrive_whole_both_ways() {
    let mut mesh = Mesh::new().await;
    let (mut near, mut far) = {
        let (dialed, far) = mesh.stream().await;
        (dialed.stream, far)
    };
    let data: Arc<[u8]> = (0..5_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
    let (_, _, there, back) = tokio::join!(
        send_all(&mut near.sender, &data),
        send_all(&mut far.sender, &data),
        read_all(&mut far.receiver),
        read_all(&mut near.receiver),
    );
    assert!(there.unwrap() == *data && back.unwrap() == *data);
}

/// Fails if the end of one direction ends the other.
#[tokio::test]
async fn each_side_may_end_first() {
    let mut mesh = Mesh::new().await;
    for dialer_first in [true, false] {
        let (dialed, accepted) = mesh.stream().await;
        let (mut first, mut last) =
            if dialer_first { (dialed.stream, accepted) } else { (accepted, dialed.stream) };
        first.sender.send(Bytes::from_static(b"all I have")).await.unwrap();
        first.sender.finish().unwrap();
        assert_eq!(read_all(&mut last.receiver).await.unwrap(), b"all I have");
        assert_eq!(last.receiver.receive().await.unwrap(), None, "an end stays an end");
        last.sender.send(Bytes::from_static(b"there is more")).await.unwrap();
        last.sender.finish().unwrap();
        assert_eq!(read_all(&mut first.receiver).await.unwrap(), b"there is more");
        assert!(matches!(first.sender.send(Bytes::from_static(b"x")).await, Err(StreamError::Closed)));
    }
}

/// What is still on its way when both ends are dropped must arrive.
#[tokio::test]
async fn a_finished_stream_may_be_dropped() {
    let mut mesh = Mesh::new().await;
    let (dialed, mut accepted) = mesh.stream().await;
    accepted.sender.finish().unwrap();
    let mut near = dialed.stream;
    assert_eq!(near.receiver.receive().await.unwrap(), None);
    near.sender.send(Bytes::from_static(b"last words")).await.unwrap();
    near.sender.finish().unwrap();
    drop(near);
    assert_eq!(read_all(&mut accepted.receiver).await.unwrap(), b"last words");
}

/// Fails if an RST would reach the other application as a FIN, as if its data were complete.
#[tokio::test]
async fn a_reset_is_a_reset_at_the_other_end() {
    let mut mesh = Mesh::new().await;
    for dialer_resets in [true, false] {
        let (dialed, accepted) = mesh.stream().await;
        let (mut one, mut other) =
            if dialer_resets { (dialed.stream, accepted) } else { (accepted, dialed.stream) };
        one.sender.reset();
        assert_reset(&other.receiver.receive().await);
        assert_reset(&other.sender.send(Bytes::from_static(b"x")).await);
        assert_reset::<()>(&Err(other.sender.broken().await));
        assert!(matches!(one.sender.send(Bytes::from_static(b"x")).await, Err(StreamError::Closed)));
    }
}

/// A proxy that fails in the middle drops its halves: the peer must not take that for an end.
#[tokio::test]
async fn a_half_dropped_before_its_end_resets() {
    let mut mesh = Mesh::new().await;
    let (dialed, mut far) = mesh.stream().await;
    drop(dialed.stream.sender);
    assert_reset(&far.receiver.receive().await);

    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    near.sender.finish().unwrap();
    assert_eq!(far.receiver.receive().await.unwrap(), None);
    drop(near);
    assert_reset::<()>(&Err(far.sender.broken().await));

    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    far.sender.finish().unwrap();
    assert_eq!(near.receiver.receive().await.unwrap(), None);
    drop(far.receiver);
    assert_reset::<()>(&Err(near.sender.broken().await));
}

/// Fails if a sender that waits for window is not woken by a reset.
#[tokio::test]
async fn a_waiting_sender_learns_of_the_reset() {
    let mut mesh = Mesh::new().await;
    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    let waiting = near.sender.send(Bytes::from(vec![0; 1 << 20]));
    let resetting = async {
        far.receiver.receive().await.unwrap();
        far.sender.reset();
    };
    assert_reset(&tokio::join!(waiting, resetting).0);
}

#[tokio::test]
async fn a_lost_connection_is_neither_an_end_nor_a_reset() {
    let mut mesh = Mesh::new().await;
    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    mesh.client.tunnel.retire(&model::WorkloadUid::new("client"));
    assert!(matches!(near.receiver.receive().await, Err(StreamError::Connection(_))));
    assert!(matches!(far.receiver.receive().await, Err(StreamError::Connection(_))));
}

#[tokio::test]
async fn refusals_are_told_by_their_status() {
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    for status in [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE] {
        let refusing = async { server.request().await.refuse(status) };
        let (dialed, ()) = tokio::join!(client.dial(address), refusing);
        assert!(matches!(dialed, Err(DialError::Refused(got)) if got == status));
    }
    assert_eq!(client.connects(), 1, "a refusal leaves the connection as it is");
}

#[tokio::test]
async fn an_unanswered_request_that_is_dropped_is_reset() {
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    let dropping = async { drop(server.request().await) };
    let (dialed, ()) = tokio::join!(client.dial(address), dropping);
    assert!(matches!(dialed, Err(DialError::Reset(Reason::CANCEL))));
}

/// Fails if a proxy goes on connecting to an application for a client that is gone.
#[tokio::test]
async fn a_request_learns_that_its_dialer_went_away() {
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    let mut dial = Box::pin(client.dial(address));
    let mut request = tokio::select! {
        _ = &mut dial => panic!("nobody answered"),
        request = server.request() => request,
    };
    drop(dial);
    assert_reset::<()>(&Err(request.broken().await));
}

#[tokio::test]
async fn headers_arrive_as_sent_and_empty_ones_are_left_out() {
    let Mesh { client, mut server } = Mesh::new().await;
    let address = server.address;
    let full = ConnectHeaders {
        baggage: "k8s.namespace.name=default".to_owned(),
        forwarded: "for=\"10.1.1.10:1698\";host=server".to_owned(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".to_owned(),
    };
    for headers in [full, ConnectHeaders::default()] {
        let accepting = async {
            let request = server.request().await;
            assert_eq!(*request.headers(), headers);
            assert_eq!(request.authority(), "10.2.1.10:8080");
            request.accept("").unwrap()
        };
        let (dialed, _accepted) = tokio::join!(client.dial_with(address, headers.clone()), accepting);
        assert_eq!(dialed.unwrap().baggage, None);
    }
    let bad = ConnectHeaders { baggage: "a=b\r\nc: d".to_owned(), ..ConnectHeaders::default() };
    assert!(matches!(client.dial_with(address, bad).await, Err(DialError::BadHeader)));
}

/// GOAWAY lets open streams go on, then ends the session.
#[tokio::test]
async fn a_drained_session_ends_with_its_last_stream() {
    let mut mesh = Mesh::new().await;
    let (dialed, mut far) = mesh.stream().await;
    let mut near = dialed.stream;
    mesh.server.drain.notify_one();
    near.sender.send(Bytes::from_static(b"still here")).await.unwrap();
    near.sender.finish().unwrap();
    assert_eq!(read_all(&mut far.receiver).await.unwrap(), b"still here");
    far.sender.finish().unwrap();
    assert_eq!(near.receiver.receive().await.unwrap(), None);
    drop((near, far));
    loop {
        if let Event::Ended { reason, rejected } = mesh.server.event().await {
            break assert_eq!((reason, rejected), ("done", 0));
        }
    }
}
