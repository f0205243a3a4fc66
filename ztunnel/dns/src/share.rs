//! One pod's part of what all pods of the node share: never so much that nothing is left for another.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A pod takes no more than one in so many of what is free then. However many pods take all they get, something stays free,
/// and who comes last gets as much as they have: of T places, with n such pods, T / (n + 4) each.
const FREE_TO_OWN: usize = 4;

pub(crate) struct Share {
    own: Arc<Semaphore>,
    most: usize,
    shared: Arc<Semaphore>,
}

/// A place, the pod's own and the node's, until it is dropped.
pub(crate) struct Place {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Share {
    pub(crate) fn new(most: usize, shared: &Arc<Semaphore>) -> Self {
        Self { own: Arc::new(Semaphore::new(most)), most, shared: Arc::clone(shared) }
    }

    pub(crate) fn take(&self) -> Option<Place> {
        let used = self.most.saturating_sub(self.own.available_permits());
        if used >= self.shared.available_permits().div_ceil(FREE_TO_OWN) {
            return None;
        }
        let own = Arc::clone(&self.own).try_acquire_owned().ok()?;
        let shared = Arc::clone(&self.shared).try_acquire_owned().ok()?;
        Some(Place { _own: own, _shared: shared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(share: &Share) -> Vec<Place> {
        std::iter::from_fn(|| share.take()).collect()
    }

    /// Catches: pods that together take all there is, so that the next one gets nothing.
    #[test]
    fn however_many_take_all_they_get_there_is_as_much_for_the_next() {
        let shared = Arc::new(Semaphore::new(1024));
        let greedy: Vec<_> = (0..8).map(|_| Share::new(128, &shared)).collect();
        let mut taken: Vec<_> = greedy.iter().map(take_all).collect();
        let next = take_all(&Share::new(128, &shared));
        assert!(next.len() >= 32, "{} places, of 1024 for 9", next.len());
        // A pod's share shrinks while others hold theirs: what it gives back beyond it, it does not get again.
        taken[0].clear();
        assert!(take_all(&greedy[0]).len() < 128);
    }

    /// Catches: a pod that has less than it may though nobody else wants anything.
    #[test]
    fn alone_a_pod_has_all_that_one_may_have() {
        let shared = Arc::new(Semaphore::new(1024));
        assert_eq!(take_all(&Share::new(128, &shared)).len(), 128);
        let one = Share::new(128, &Arc::new(Semaphore::new(1)));
        assert_eq!(take_all(&one).len(), 1, "the last place is somebody's");
    }
}
