//! A newer daemon takes the node over, and may end before we do, by a crash or by a rollback. Then the pods have nobody
//! but us.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::Node;

/// How often we look whether the newer daemon is still there. Pods that fail closed are refused so long.
const LOOK: Duration = Duration::from_millis(500);

impl Node {
    /// Takes the pods back whenever a newer daemon has ended, forever.
    pub(crate) async fn outlive_successors(self: Arc<Self>) {
        let (mut looks, mut failed) = (interval(LOOK), false);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if self.drain.is_cancelled() || !self.is_bereft() {
                continue;
            }
            match self.parts.redirector.take_back(&self.pods()).await {
                Ok(()) => {
                    tracing::warn!("a newer daemon has ended; this one serves the node again");
                    failed = false;
                    self.told_superseded.store(false, Ordering::Relaxed);
                    self.strangers_forgotten.store(false, Ordering::Relaxed);
                    // What it did of the list has to be done by us.
                    self.again.notify_one();
                }
                Err(error) if !failed => {
                    failed = true;
                    let reason = error.reason();
                    tracing::error!(reason, %error, "a newer daemon has ended, and what it had cannot be taken back; trying again");
                }
                Err(_) => {}
            }
        }
    }

    /// Whether a newer daemon has ended that had taken pods over, and they are not ours again yet.
    pub(crate) fn is_bereft(&self) -> bool {
        self.parts.redirector.is_bereft()
    }
}
