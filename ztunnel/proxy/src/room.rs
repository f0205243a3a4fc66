//! Bounds how many sockets connections may hold, so that a storm leaves descriptors for everything else: other pods,
//! enrolment, the admin endpoint.
//!
//! Whoever arrives waits for a seat, in the kernel's queue behind the first; a second leg that finds none fails its
//! connection at once. One pod gets a share of the daemon's seats, three quarters unless told otherwise.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Clone, Debug)]
pub(crate) struct Room {
    daemon: Arc<Semaphore>,
    pod: Arc<Semaphore>,
}

/// One socket's place, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Seat {
    _pod: OwnedSemaphorePermit,
    _daemon: OwnedSemaphorePermit,
}

impl Room {
    /// Of one pod, in a daemon whose connections may hold `sockets` together, its own `percent` of them.
    pub(crate) fn new(daemon: &Arc<Semaphore>, sockets: usize, percent: usize) -> Self {
        let share = (sockets - sockets / 100 * (100 - percent.min(100))).max(1);
        Self { daemon: Arc::clone(daemon), pod: Arc::new(Semaphore::new(share)) }
    }

    pub(crate) fn has_none(&self) -> bool {
        self.daemon.available_permits() == 0 || self.pod.available_permits() == 0
    }

    /// `None` only if the semaphores were closed, which nobody does.
    pub(crate) async fn wait(&self) -> Option<Seat> {
        let pod = Arc::clone(&self.pod).acquire_owned().await.ok()?;
        let daemon = Arc::clone(&self.daemon).acquire_owned().await.ok()?;
        Some(Seat { _pod: pod, _daemon: daemon })
    }

    pub(crate) fn take(&self) -> Option<Seat> {
        let pod = Arc::clone(&self.pod).try_acquire_owned().ok()?;
        let daemon = Arc::clone(&self.daemon).try_acquire_owned().ok()?;
        Some(Seat { _pod: pod, _daemon: daemon })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If one pod could take every seat, its storm would stop all the others.
    #[test]
    fn a_pod_leaves_a_quarter_to_the_others() {
        let daemon = Arc::new(Semaphore::new(100));
        let (storming, quiet) = (Room::new(&daemon, 100, 75), Room::new(&daemon, 100, 75));
        let storm: Vec<_> = std::iter::from_fn(|| storming.take()).collect();
        assert_eq!(storm.len(), 75);
        assert!(storming.has_none());
        assert!(quiet.take().is_some());
    }

    #[tokio::test]
    async fn who_waits_is_seated_when_somebody_leaves() {
        let daemon = Arc::new(Semaphore::new(1));
        let room = Room::new(&daemon, 1, 75);
        let seat = room.take();
        assert!(seat.is_some());
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.wait().await.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(seat);
        assert!(waiting.await.unwrap());
    }
}
