//! Carries bytes both ways until both directions are done.
//!
//! Each direction ends by itself: FIN becomes END_STREAM and END_STREAM becomes FIN, and a half-closed connection
//! lives as long as its other half. An abort of either end (RST, RST_STREAM) aborts the whole. No byte is read
//! that cannot be handed on: a slow reader fills its window or socket buffer, and the writer waits.

mod broken;
mod chunk;
mod pump;
mod splice;

use std::{
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use telemetry::{ByteCounters, End, Outcome};
use tunnel::TunnelStream;

use crate::{leg::Leg, pipes::Pipes};
use broken::Broken;
use pump::{Direction, Watch, tcp_to_tcp, tcp_to_tunnel, tunnel_to_tcp};

/// A stream that is reset loses what HTTP/2 has queued and not yet written, and nobody says when it is written. An
/// application that answers and then aborts (a server that refuses to read the rest of a request) counts on its
/// last words to arrive before its RST, as they would over TCP. Long for a queue that moves, short for a human.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Between an application and the tunnel. `near` is the application's end of the connection. Not an `async fn`, which
/// would have room for what it takes twice.
#[expect(clippy::manual_async_fn, reason = "see above")]
pub(crate) fn through_tunnel(
    mut leg: Leg,
    TunnelStream { mut receiver, mut sender }: TunnelStream,
    near: End,
    counters: Arc<ByteCounters>,
) -> impl Future<Output = Outcome> {
    async move {
        let counters = std::slice::from_ref(&counters);
        let (away, back) =
            (Direction { from: near, counters }, Direction { from: near.opposite(), counters });
        let receiving = AtomicBool::new(true);
        let result = {
            let (reader, writer) = leg.split();
            let request = pin!(tcp_to_tunnel(reader, &mut sender, &away, &receiving));
            let answer = pin!(tunnel_to_tcp(&mut receiver, writer, &back, &receiving));
            both(request, answer).await
        };
        if result.as_ref().is_err_and(Broken::is_of_socket) {
            tokio::time::sleep(LAST_WORDS).await;
        }
        finish([leg], result)
    }
}

/// Between two TCP connections. What is busy goes by splice(2), as long as there are pipes.
#[expect(clippy::manual_async_fn, reason = "as above")]
pub(crate) fn between_sockets<'a>(
    mut source: Leg,
    mut destination: Leg,
    counters: &'a [Arc<ByteCounters>],
    pipes: &'a Arc<Pipes>,
) -> impl Future<Output = Outcome> + 'a {
    async move {
        let onward = Direction { from: End::Source, counters };
        let back = Direction { from: End::Destination, counters };
        let result = {
            let (source_reader, source_writer) = source.split();
            let (destination_reader, destination_writer) = destination.split();
            let request = pin!(tcp_to_tcp(source_reader, destination_writer, &onward, pipes));
            let answer = pin!(tcp_to_tcp(destination_reader, source_writer, &back, pipes));
            both(request, answer).await
        };
        finish([source, destination], result)
    }
}

/// Runs both directions to their end. A direction that has ended hands back a watch: it no longer reads from its
/// source, so nothing else would notice an abort of it while the other direction is idle. `answer` is polled first.
async fn both<'a, 'b>(
    mut request: Pin<&mut impl Future<Output = Result<Watch<'a>, Broken>>>,
    mut answer: Pin<&mut impl Future<Output = Result<Watch<'b>, Broken>>>,
) -> Result<(), Broken> {
    tokio::select! {
        biased;
        ended = &mut answer => {
            let watch = ended?;
            tokio::select! {
                ended = request => ended.map(drop),
                broken = watch => Err(broken),
            }
        }
        ended = &mut request => {
            let watch = ended?;
            tokio::select! {
                biased;
                ended = answer => ended.map(drop),
                broken = watch => Err(broken),
            }
        }
    }
}

/// Only what ended properly is closed; the rest is dropped, which resets it.
fn finish<const N: usize>(legs: [Leg; N], result: Result<(), Broken>) -> Outcome {
    match result {
        Ok(()) => {
            legs.into_iter().for_each(Leg::close);
            Outcome::Completed
        }
        Err(broken) => broken.into_outcome(),
    }
}
