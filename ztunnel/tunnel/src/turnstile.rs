//! Fair turns on the processor for the work that making a connection takes.
//!
//! What is dear about a connection is making it: a TLS handshake is a millisecond of arithmetic, and a storm would put
//! thousands of those into the runtime's one queue, before everybody else's. So each step of making one (each poll of
//! its future) takes a turn here. Turns go to one pod after the other, and within a pod to one source after the other, so
//! that a storm's backlog waits behind itself.
//!
//! A turn lasts for one poll and is never held while waiting for the network, so who stalls keeps nobody out. There are
//! as many at once as threads that carry connections: with more, the queue would be the runtime's again.

mod rounds;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use model::WorkloadUid;
use parking_lot::Mutex;

use rounds::{Line, Rounds};

/// Clones share the turns.
#[derive(Clone, Debug)]
pub struct Turnstile(Arc<Mutex<Queue>>);

/// On whose account a turn is taken: a pod of this node, and who makes it work.
#[derive(Clone, Debug)]
pub struct Lane {
    pub pod: WorkloadUid,
    pub source: IpAddr,
}

/// Those of one source, in the order of their coming.
type Tickets = BTreeMap<u64, Waker>;

#[derive(Debug)]
struct Queue {
    turns: usize,
    free: usize,
    last: u64,
    waiting: Rounds<WorkloadUid, Rounds<IpAddr, Tickets>>,
}

impl Turnstile {
    /// At least one turn there always is.
    pub fn new(turns: usize) -> Self {
        let turns = turns.max(1);
        Self(Arc::new(Mutex::new(Queue { turns, free: turns, last: 0, waiting: Rounds::default() })))
    }

    /// Does `work`, each poll of it in a turn of its own.
    pub async fn pass<F: Future>(&self, lane: Lane, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut place = Place { turnstile: self, lane, stage: Stage::Outside };
        poll_fn(|cx| {
            if place.poll_turn(cx).is_pending() {
                return Poll::Pending;
            }
            let polled = work.as_mut().poll(cx);
            place.leave();
            polled
        })
        .await
    }

    /// Turns that are taken now, and how many there are.
    pub fn in_use(&self) -> (usize, usize) {
        let queue = self.0.lock();
        (queue.turns - queue.free, queue.turns)
    }

    /// The turn of one who leaves goes to the next.
    fn give_back(&self) {
        let next = self.0.lock().hand_on();
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl Queue {
    fn hand_on(&mut self) -> Option<Waker> {
        let next = self.waiting.next();
        if next.is_none() {
            self.free += 1;
        }
        next
    }

    fn tickets(&mut self, lane: &Lane) -> Option<&mut Tickets> {
        self.waiting.existing(&lane.pod)?.existing(&lane.source)
    }
}

/// Where one is who passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Outside,
    /// With this ticket; it is taken out of the queue when the turn comes.
    Waiting(u64),
    Inside,
}

#[derive(Debug)]
struct Place<'a> {
    turnstile: &'a Turnstile,
    lane: Lane,
    stage: Stage,
}

impl Place<'_> {
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.turnstile.0.lock();
        match self.stage {
            Stage::Outside if queue.free > 0 => {
                queue.free -= 1;
                self.stage = Stage::Inside;
                Poll::Ready(())
            }
            Stage::Outside => {
                queue.last += 1;
                let ticket = queue.last;
                let line = queue.waiting.line(&self.lane.pod).line(&self.lane.source);
                line.insert(ticket, cx.waker().clone());
                self.stage = Stage::Waiting(ticket);
                Poll::Pending
            }
            Stage::Waiting(ticket) => match queue.tickets(&self.lane).and_then(|all| all.get_mut(&ticket)) {
                Some(waker) => {
                    waker.clone_from(cx.waker());
                    Poll::Pending
                }
                // Not at once: who was woken by the one before runs before all that is ready (tokio's LIFO slot), and a
                // chain of turns would hold up those that only carry data. Waking oneself is to go to the end.
                None => {
                    self.stage = Stage::Inside;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            Stage::Inside => Poll::Ready(()),
        }
    }

    fn leave(&mut self) {
        self.stage = Stage::Outside;
        self.turnstile.give_back();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let has_turn = match self.stage {
            Stage::Outside => false,
            Stage::Inside => true,
            Stage::Waiting(ticket) => {
                let mut queue = self.turnstile.0.lock();
                queue.tickets(&self.lane).and_then(|tickets| tickets.remove(&ticket)).is_none()
            }
        };
        if has_turn {
            self.turnstile.give_back();
        }
    }
}

impl Line for Tickets {
    fn next(&mut self) -> Option<Waker> {
        self.pop_first().map(|(_, waker)| waker)
    }

    fn is_empty(&self) -> bool {
        BTreeMap::is_empty(self)
    }
}
