//! Memory that is not needed now goes back to the node: after the start, when a crowd of connections has gone or a large push
//! has passed, and whenever the daemon rests and its allocator has kept much.

mod crowd;
mod spare;

use std::{sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use telemetry::Ledgers;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::state::StateStatus;
use crowd::{Crowd, Push};
use spare::Spare;

const INTERVAL: Duration = Duration::from_secs(5);

/// What it took to start is not needed again, and what it took to serve a crowd or to hear of a whole mesh not soon.
pub(crate) async fn keep_small(ledgers: Arc<Ledgers>, state: StateStatus, ready: CancellationToken) {
    ready.cancelled().await;
    let (mut crowd, mut push, mut spare) = (Crowd::default(), Push::default(), Spare::default());
    loop {
        sleep(INTERVAL).await;
        let gone = crowd.has_gone(ledgers.count(), ledgers.take_crest(), ledgers.opened());
        let passed = push.has_passed(state.came());
        let much = spare.is_much(redirect::spare_memory(), processor_time());
        if gone || passed || much {
            redirect::give_back_memory();
            redirect::let_go_of_code();
            spare.was_given_back(redirect::spare_memory());
        }
    }
}

/// Of all threads.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
