//! Time for tests over real sockets. Tokio's paused time jumps whenever nothing is ready, and a busy kernel may have
//! packets on their way just then. Here it moves when the test says so, and then slowly enough for the kernel.

use std::{future::Future, pin::pin, sync::mpsc, time::Duration};

use tokio::{task::spawn_blocking, time::advance};

/// Shorter than every deadline under test.
const STEP: Duration = Duration::from_secs(2);
/// What is under way on loopback is there after this; in real time.
const SETTLING: Duration = Duration::from_millis(2);

/// Of a test with `start_paused`. While it lives, time stands still but for what it lets pass.
pub(crate) struct Clock(#[expect(dead_code, reason = "its drop is what counts")] mpsc::Sender<()>);

impl Clock {
    pub(crate) fn stopped() -> Self {
        let (held, released) = mpsc::channel();
        // Tokio does not advance paused time by itself while a blocking task runs.
        spawn_blocking(move || released.recv());
        Self(held)
    }

    pub(crate) async fn pass(&self, duration: Duration) {
        let mut left = duration;
        while !left.is_zero() {
            let step = left.min(STEP);
            advance(step).await;
            settle().await;
            left -= step;
        }
    }

    /// Lets time pass until `event` has happened.
    pub(crate) async fn until<F: Future>(&self, event: F) -> F::Output {
        let mut event = pin!(event);
        loop {
            tokio::select! {
                biased;
                happened = &mut event => return happened,
                () = self.pass(STEP) => {}
            }
        }
    }
}

/// Until the kernel has delivered what is on its way.
pub(crate) async fn settle() {
    spawn_blocking(|| std::thread::sleep(SETTLING)).await.unwrap();
}

/// Until `measure` gives the same for a while.
pub(crate) async fn until_stable(measure: impl Fn() -> usize) -> usize {
    let mut last = measure();
    let mut same = 0;
    while same < 30 {
        settle().await;
        let now = measure();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}
