//! A number of bytes that many may borrow from, without a lock.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use model::SpiffeId;

use super::{
    Load, SEND_BUFFER,
    shares::{Shares, StreamReservation},
};
use crate::WindowSettings;

/// The bytes left. Clones share them.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<AtomicUsize>,
    whole: usize,
    /// What one reservation may take, so that no peer has all of it to itself.
    share: usize,
}

/// What is held for peers and pods is taken from these.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    streams: Budget,
    shares: Shares,
    /// What windows grow by.
    pub(crate) growth: Budget,
    /// What is held outside of tunnels. Its own, so that plaintext which nobody reads costs no tunnel its streams.
    pub(crate) plaintext: Budget,
    /// What streams hold of them.
    pub(crate) load: Arc<Load>,
}

/// Bytes taken from a budget; they go back on drop.
#[derive(Debug)]
pub struct Reservation {
    left: Arc<AtomicUsize>,
    most: usize,
    bytes: usize,
}

impl WindowSettings {
    /// What one stream may hold: its first window, and what waits to be sent.
    fn of_stream(&self) -> usize {
        usize::try_from(self.initial).unwrap_or(usize::MAX).saturating_add(SEND_BUFFER)
    }

    /// A sixteenth is for what is held outside of tunnels.
    fn of_plaintext(&self) -> usize {
        self.total / 16
    }

    fn of_streams(&self) -> usize {
        self.total.saturating_sub(self.growth_budget).saturating_sub(self.of_plaintext())
    }

    /// How many streams `total` has room for, all identities together.
    pub fn streams(&self) -> usize {
        self.of_streams() / self.of_stream()
    }
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

    pub(crate) fn whole(&self) -> usize {
        self.whole
    }

    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

impl Budgets {
    pub(crate) fn new(settings: &WindowSettings) -> Self {
        let (growth, plaintext) = (settings.growth_budget, settings.of_plaintext());
        let streams = Budget::new(settings.of_streams(), settings.of_stream());
        Self {
            shares: Shares::new(streams.clone(), settings.of_stream()),
            streams,
            growth: Budget::new(growth, growth / 4),
            plaintext: Budget::new(plaintext, plaintext),
            load: Arc::default(),
        }
    }

    /// What a new stream may hold, of a workload here that has this identity.
    pub(crate) fn stream(&self, identity: &SpiffeId) -> Option<StreamReservation> {
        self.shares.take(identity)
    }

    pub(crate) fn used(&self) -> usize {
        self.streams.used() + self.growth.used() + self.plaintext.used()
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

    fn identity(name: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap()
    }

    /// If plaintext that nobody reads took from the same budget as streams, it would stop tunnels.
    #[test]
    fn what_is_held_outside_of_tunnels_costs_them_nothing() {
        let budgets = Budgets::new(&WindowSettings::default());
        let held = budgets.plaintext.reserve(budgets.plaintext.left());
        assert!(held.is_some() && budgets.plaintext.reserve(1).is_none());
        assert!(budgets.stream(&identity("quiet")).is_some());
    }
}
