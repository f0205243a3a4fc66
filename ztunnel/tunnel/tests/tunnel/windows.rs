//! How much a peer may send that nobody reads. The sender's side counts: what `send` took has left it, or waits only for
//! the socket.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use ztunnel_tunnel::{TunnelReceiver, TunnelSender, TunnelSettings, TunnelStream, WindowSettings};

use crate::{
    clock::{Clock, until_stable},
    mesh::Mesh,
};

const INITIAL: usize = 64 << 10;
const MAX: usize = 1 << 20;
const CHUNK: usize = 8 << 10;

/// Sends for as long as the peer lets it. The bytes it took so far.
fn flood(mut sender: TunnelSender) -> (Arc<AtomicUsize>, tokio::task::JoinHandle<TunnelSender>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let task = tokio::spawn(async move {
        while sender.send(Bytes::from_static(&[0; CHUNK])).await.is_ok() {
            counter.fetch_add(CHUNK, Ordering::Relaxed);
        }
        sender
    });
    (taken, task)
}

/// Reads `bytes` as fast as they come.
async fn read(receiver: &mut TunnelReceiver, mut bytes: usize) {
    while bytes > 0 {
        let data = receiver.receive().await.unwrap().unwrap();
        bytes = bytes.saturating_sub(data.len());
    }
}

fn growing_by(growth_budget: usize) -> TunnelSettings {
    let windows = WindowSettings { growth_budget, ..WindowSettings::default() };
    TunnelSettings { windows, ..TunnelSettings::default() }
}

/// Fails if a stalled stream holds more than its window, or if stalled streams together hold more than is promised.
#[tokio::test]
async fn a_thousand_streams_that_nobody_reads_stay_inside_the_budget() {
    let mut mesh = Mesh::new().await;
    let (mut held, mut floods) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let (dialed, accepted) = mesh.stream().await;
        let TunnelStream { sender, receiver } = dialed.stream;
        floods.push(flood(sender));
        held.push((receiver, accepted));
    }
    let total = || floods.iter().map(|(taken, _)| taken.load(Ordering::Relaxed)).sum();
    until_stable(total).await;
    let taken: Vec<usize> = floods.iter().map(|(taken, _)| taken.load(Ordering::Relaxed)).collect();
    assert!(taken.iter().all(|&taken| taken <= INITIAL), "a stream holds more than its window");
    assert!(taken.iter().sum::<usize>() > 900 * INITIAL, "the streams were not even full");
    assert_eq!(mesh.client.connects(), 10);
}

/// Fails if what streams hold is not told, or is told for ever.
#[tokio::test]
async fn the_load_tells_what_streams_hold_while_they_are_open() {
    let mut mesh = Mesh::new().await;
    let (dialed, accepted) = mesh.stream().await;
    let TunnelStream { sender, mut receiver } = dialed.stream;
    let flood = flood(accepted.sender);
    receiver.receive().await.unwrap();
    let load = mesh.client.tunnel.load();
    assert_eq!((load.connections, load.streams), (1, 1));
    assert!((1..=INITIAL).contains(&load.buffered), "{load:?}");
    receiver.release(usize::MAX);
    assert!(mesh.client.tunnel.load().buffered < load.buffered);
    drop((sender, receiver, accepted.receiver, flood));
    let load = mesh.client.tunnel.load();
    assert_eq!((load.streams, load.buffered), (0, 0));
}

/// Fails if the connection's window is too small for all its streams: the stalled would starve the others.
#[tokio::test]
async fn stalled_streams_do_not_starve_another() {
    let mut mesh = Mesh::new().await;
    let mut held = Vec::new();
    for _ in 0..99 {
        let (dialed, accepted) = mesh.stream().await;
        let TunnelStream { sender, receiver } = dialed.stream;
        held.push((flood(sender), receiver, accepted));
    }
    until_stable(|| held.iter().map(|((taken, _), ..)| taken.load(Ordering::Relaxed)).sum()).await;
    let (dialed, mut accepted) = mesh.stream().await;
    let TunnelStream { sender, receiver: _receiver } = dialed.stream;
    let _flood = flood(sender);
    read(&mut accepted.receiver, 16 << 20).await;
    assert_eq!(mesh.client.connects(), 1);
}

/// What a stream holds once its reader stops: its window.
async fn window_after_reading(mesh: &mut Mesh, bytes: usize) -> (usize, TunnelStream) {
    let (dialed, mut accepted) = mesh.stream().await;
    let TunnelStream { sender, receiver } = dialed.stream;
    let (taken, task) = flood(sender);
    read(&mut accepted.receiver, bytes).await;
    let window = until_stable(|| taken.load(Ordering::Relaxed)).await - bytes;
    // Both go on to live in the background.
    tokio::spawn(async move { (task.await, receiver) });
    (window, accepted)
}

#[tokio::test]
async fn a_window_grows_for_a_reader_that_keeps_up() {
    let mut mesh = Mesh::new().await;
    let (window, _accepted) = window_after_reading(&mut mesh, 32 << 20).await;
    assert!(window > 4 * INITIAL, "the window did not grow: {window}");
    assert!(window <= MAX + CHUNK, "the window grew too far: {window}");
}

#[tokio::test]
async fn a_window_does_not_grow_beyond_the_budget() {
    for (budget, most) in [(0, INITIAL), (4 * INITIAL, 2 * INITIAL)] {
        let mut mesh = Mesh::with(TunnelSettings::default(), growing_by(budget)).await;
        let (window, _accepted) = window_after_reading(&mut mesh, 16 << 20).await;
        assert!(window <= most + CHUNK, "{window} with a budget of {budget}");
    }
}

/// Fails if a slow reader gets a large window: that would only be memory.
#[tokio::test(start_paused = true)]
async fn a_window_does_not_grow_for_a_slow_reader() {
    let clock = Clock::stopped();
    let mut mesh = Mesh::new().await;
    let (dialed, mut accepted) = mesh.stream().await;
    let TunnelStream { sender, receiver: _receiver } = dialed.stream;
    let (taken, _task) = flood(sender);
    let mut read = 0;
    while read < 4 << 20 {
        read += accepted.receiver.receive().await.unwrap().unwrap().len();
        clock.pass(Duration::from_millis(100)).await;
    }
    let taken = until_stable(|| taken.load(Ordering::Relaxed)).await;
    assert!(taken - read <= INITIAL + CHUNK);
}

/// Fails if windows stay large when nobody needs them, or if the budget is not given back.
#[tokio::test(start_paused = true)]
async fn an_idle_window_shrinks_and_gives_its_share_back() {
    let clock = Clock::stopped();
    // One connection's share is a quarter of the budget: just enough.
    let mut mesh = Mesh::with(TunnelSettings::default(), growing_by(4 * (MAX - INITIAL))).await;
    let (first, mut accepted) = window_after_reading(&mut mesh, 32 << 20).await;
    assert!(first > 4 * INITIAL);
    // Read what is there, then stop: two PINGs later the window is small again.
    read(&mut accepted.receiver, first - CHUNK).await;
    clock.pass(Duration::from_secs(60)).await;
    let (dialed, second) = mesh.stream().await;
    let TunnelStream { sender, receiver: _receiver } = dialed.stream;
    let (taken, _task) = flood(sender);
    let taken = until_stable(|| taken.load(Ordering::Relaxed)).await;
    assert!(taken <= INITIAL, "a new stream has a large window still");
    drop(second);
}

/// Both directions have windows of their own: the dialer's side too.
#[tokio::test]
async fn the_dialers_side_is_bounded_as_well() {
    let mut mesh = Mesh::new().await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let (dialed, accepted) = mesh.stream().await;
        let TunnelStream { sender, receiver } = accepted;
        held.push((flood(sender), receiver, dialed));
    }
    until_stable(|| held.iter().map(|((taken, _), ..)| taken.load(Ordering::Relaxed)).sum()).await;
    for ((taken, _), ..) in &held {
        assert!(taken.load(Ordering::Relaxed) <= INITIAL);
    }
}

/// Many fast readers share the budget and all get their data.
#[tokio::test]
async fn many_fast_streams_all_arrive() {
    let mut mesh = Mesh::with(TunnelSettings::default(), growing_by(4 * MAX)).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let (dialed, accepted) = mesh.stream().await;
        let TunnelStream { sender, receiver } = dialed.stream;
        streams.push((flood(sender), receiver, accepted));
    }
    let reading = streams.iter_mut().map(|(.., accepted)| read(&mut accepted.receiver, 4 << 20));
    join_all(reading).await;
}
