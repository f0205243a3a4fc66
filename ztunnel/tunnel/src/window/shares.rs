//! Fairness between the identities of a node, as to what their streams may hold. A stream that stalls holds it for as long as
//! it is open, and peers can have as many of them as they like at every pod.
//!
//! So what an identity may have depends on what is free: three quarters of that and of its own. Those who come later
//! get less each, and would soon get nothing; a sixteenth of the whole is therefore kept for identities with but a few
//! streams.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use model::SpiffeId;
use parking_lot::Mutex;

use super::{Budget, Reservation};

/// Of what is free and its own, what an identity may have.
const SHARE_PERCENT: usize = 75;
/// The part of the whole that is kept for identities with few streams: 1 in so many.
const KEPT: usize = 16;
/// How many are few; fewer, if that is more than a sixteenth of what is kept.
const FEW: usize = 16;

/// Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    whole: Budget,
    /// What one stream may hold.
    stream: usize,
    /// What each identity holds that has streams.
    held: Arc<Mutex<HashMap<SpiffeId, Weak<AtomicUsize>>>>,
}

/// What one stream may hold, and its part of what its identity holds.
#[derive(Debug)]
pub(crate) struct StreamReservation {
    whole: Reservation,
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Shares {
    pub(super) fn new(whole: Budget, stream: usize) -> Self {
        Self { whole, stream, held: Arc::default() }
    }

    /// What a new stream may hold, of a workload here that has this identity.
    pub(super) fn take(&self, identity: &SpiffeId) -> Option<StreamReservation> {
        let (held, bytes) = (self.held_by(identity), self.stream);
        let before = held.fetch_add(bytes, Relaxed);
        let mut taken = StreamReservation { whole: self.whole.reservation(), held, bytes };
        (self.may_add_to(before) && taken.whole.grow_to(bytes)).then_some(taken)
    }

    fn may_add_to(&self, held: usize) -> bool {
        let kept = self.whole.whole() / KEPT;
        let few = (FEW * self.stream).min(kept / FEW);
        let free = self.whole.left().saturating_sub(kept);
        held < few || held + self.stream <= (free + held) / 100 * SHARE_PERCENT
    }

    fn held_by(&self, identity: &SpiffeId) -> Arc<AtomicUsize> {
        let mut all = self.held.lock();
        if let Some(held) = all.get(identity).and_then(Weak::upgrade) {
            return held;
        }
        // No more than the identities that have streams, and the one that comes.
        all.retain(|_, held| held.strong_count() > 0);
        let held = Arc::default();
        all.insert(identity.clone(), Arc::downgrade(&held));
        held
    }
}

impl Drop for StreamReservation {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: usize = 1000;

    fn shares(streams: usize) -> Shares {
        Shares::new(Budget::new(streams * STREAM, STREAM), STREAM)
    }

    fn identity(number: usize) -> SpiffeId {
        format!("spiffe://cluster.local/ns/default/sa/i{number}").parse().unwrap()
    }

    fn all(shares: &Shares, number: usize) -> Vec<StreamReservation> {
        std::iter::from_fn(|| shares.take(&identity(number))).collect()
    }

    /// If those who hold all they can left less than this to who comes next, two pods whose peers stall would stop all others.
    #[test]
    fn however_many_stall_the_next_identity_has_streams() {
        let shares = shares(15_024);
        let mut stalled: Vec<_> = (0..2).map(|number| all(&shares, number)).collect();
        let counts: Vec<_> = stalled.iter().map(Vec::len).collect();
        assert!(counts[0] > 15_024 * 7 / 10 && counts[1] > 2500, "{counts:?}");
        let third = all(&shares, 2);
        assert!(third.len() > 600, "{}", third.len());
        stalled.push(third);
        // They come back for what the others have left.
        for number in 0..50 {
            stalled.push(all(&shares, number));
            let next = all(&shares, 1000);
            assert!(next.len() >= FEW, "{number}: {}", next.len());
        }
        drop(stalled);
        assert_eq!(shares.whole.used(), 0);
        assert!(all(&shares, 0).len() > 15_024 * 7 / 10, "what is given back can be had again");
        assert_eq!(shares.held.lock().len(), 1, "identities without streams are remembered");
    }

    /// If little memory left nothing to be had, a small node would carry nothing.
    #[test]
    fn the_smallest_budget_has_room_for_one_and_another() {
        let shares = shares(3);
        let held = all(&shares, 0);
        assert_eq!(held.len(), 2);
        assert_eq!(all(&shares, 1).len(), 1);
    }
}
