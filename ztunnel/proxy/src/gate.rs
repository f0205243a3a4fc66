//! Bounds how many inbound handshakes are under way before their peer has proven anything.
//!
//! When the bound is reached the oldest is cut. An honest handshake is over in milliseconds, so the oldest of
//! many is the one that stalls; cutting the newest would let whoever stalls lock out everybody else.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct Gate {
    limit: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
}

impl Gate {
    /// At least one may always be inside.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), inside: Mutex::default() })
    }

    /// Never waits. `evicted` is fired when this entrance has to make room.
    pub(crate) fn enter(self: &Arc<Self>, evicted: &CancellationToken) -> Entrance {
        let mut inside = self.inside.lock();
        if inside.by_age.len() >= self.limit
            && let Some((_, oldest)) = inside.by_age.pop_first()
        {
            oldest.cancel();
        }
        let ticket = inside.next;
        inside.next += 1;
        inside.by_age.insert(ticket, evicted.clone());
        Entrance { gate: Arc::clone(self), ticket }
    }
}

/// A place inside, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Entrance {
    gate: Arc<Gate>,
    ticket: u64,
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.gate.inside.lock().by_age.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(count: usize) -> Vec<CancellationToken> {
        (0..count).map(|_| CancellationToken::new()).collect()
    }

    fn cancelled(tokens: &[CancellationToken]) -> Vec<bool> {
        tokens.iter().map(CancellationToken::is_cancelled).collect()
    }

    /// If a newcomer were turned away instead, stalled handshakes would lock everybody out.
    #[test]
    fn a_full_gate_cuts_its_oldest_and_admits_the_newcomer() {
        let gate = Gate::new(2);
        let tokens = tokens(3);
        let _inside: Vec<_> = tokens.iter().map(|token| gate.enter(token)).collect();
        assert_eq!(cancelled(&tokens), [true, false, false]);
    }

    /// If places were not given back, the gate would cut honest handshakes after a while.
    #[test]
    fn leaving_makes_room() {
        let gate = Gate::new(2);
        let tokens = tokens(3);
        let first = gate.enter(&tokens[0]);
        let _second = gate.enter(&tokens[1]);
        drop(first);
        let _third = gate.enter(&tokens[2]);
        assert_eq!(cancelled(&tokens), [false, false, false]);
    }
}
