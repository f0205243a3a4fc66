//! A number of bytes that many may borrow from, without a lock.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::Load;
use crate::WindowSettings;

/// The bytes left. Clones share them.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<AtomicUsize>,
    whole: usize,
    /// What one reservation may take, so that no peer has all of it to itself.
    share: usize,
}

/// What the windows of a daemon are taken from.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    /// The windows that streams begin with.
    pub(crate) streams: Budget,
    /// What windows grow by.
    pub(crate) growth: Budget,
    /// What streams hold of them.
    pub(crate) load: Arc<Load>,
    initial: usize,
}

/// Bytes taken from a budget; they go back on drop.
#[derive(Debug)]
pub struct Reservation {
    left: Arc<AtomicUsize>,
    most: usize,
    bytes: usize,
}

impl Budget {
    pub fn new(bytes: usize, share: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), whole: bytes, share }
    }

    /// An empty reservation, to be grown.
    pub(crate) fn reservation(&self) -> Reservation {
        Reservation { left: Arc::clone(&self.left), most: self.share, bytes: 0 }
    }

    /// So many bytes, if they are there.
    pub fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.reservation();
        reservation.grow_to(bytes).then_some(reservation)
    }

    pub fn used(&self) -> usize {
        self.whole - self.left.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

impl Budgets {
    pub(crate) fn new(settings: &WindowSettings) -> Self {
        let WindowSettings { initial, growth_budget, total, .. } = *settings;
        let streams = total.saturating_sub(growth_budget);
        Self {
            streams: Budget::new(streams, streams),
            growth: Budget::new(growth_budget, growth_budget / 4),
            load: Arc::default(),
            initial: usize::try_from(initial).unwrap_or(usize::MAX),
        }
    }

    /// The window that a new stream begins with.
    pub(crate) fn stream(&self) -> Option<Reservation> {
        self.streams.reserve(self.initial)
    }

    pub(crate) fn used(&self) -> usize {
        self.streams.used() + self.growth.used()
    }
}

impl Reservation {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds at least `bytes` afterwards, or as much as before if the budget has not enough or that is more than a share.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes);
        if missing == 0 {
            return true;
        }
        if bytes > self.most {
            return false;
        }
        let take = |left: usize| left.checked_sub(missing);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if taken {
            self.bytes += missing;
        }
        taken
    }

    pub(crate) fn release(&mut self) {
        self.left.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If one peer could take it all and never give it back, all others would stay at their smallest windows.
    #[test]
    fn nobody_gets_more_than_a_share() {
        let budget = Budget::new(100, 25);
        let mut greedy = budget.reservation();
        assert!(greedy.grow_to(25));
        assert!(!greedy.grow_to(26));
        assert_eq!((greedy.bytes(), budget.left()), (25, 75));
    }

    #[test]
    fn a_budget_is_never_overdrawn_and_gets_everything_back() {
        let budget = Budget::new(100, 100);
        let (mut one, mut other) = (budget.reservation(), budget.reservation());
        assert!(one.grow_to(60));
        assert!(!other.grow_to(41));
        assert_eq!((other.bytes(), budget.left()), (0, 40));
        assert!(other.grow_to(40));
        assert!(one.grow_to(10), "less than it has is always granted");
        assert_eq!(one.bytes(), 60);
        drop(one);
        other.release();
        assert_eq!(budget.left(), 100);
    }
}
