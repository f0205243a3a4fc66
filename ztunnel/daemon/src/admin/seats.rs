//! The places at a door, and who has to leave so that others come in: nobody can hold them all by saying nothing, or by
//! reading slowly where strangers come in.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often those who wait look again.
const PAUSE: Duration = Duration::from_millis(50);

/// What holds at a door.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Connections at a time; those who come when all are taken wait.
    pub(super) places: usize,
    /// And from one address; more are turned away.
    pub(super) per_source: usize,
    /// After which whoever was answered may have to leave for another.
    pub(super) patience: Duration,
    /// For the head of a request.
    pub(super) head: Duration,
    /// For a whole connection.
    pub(super) whole: Duration,
    /// A connection carries one request.
    pub(super) once: bool,
    /// Whoever comes in may change something.
    pub(super) trusted: bool,
}

pub(super) struct Seats {
    rules: Rules,
    taken: Mutex<Vec<Arc<Guest>>>,
}

struct Guest {
    source: Option<IpAddr>,
    since: Instant,
    asked: AtomicBool,
    leave: CancellationToken,
}

/// A place, free again when this is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    guest: Arc<Guest>,
}

impl Seats {
    pub(super) fn new(rules: Rules) -> Arc<Self> {
        Arc::new(Self { rules, taken: Mutex::default() })
    }

    /// `None` if this address has its share already. The oldest that has said nothing leaves first.
    pub(super) async fn seat(self: &Arc<Self>, source: Option<IpAddr>) -> Option<Seat> {
        loop {
            {
                let mut taken = self.taken.lock();
                let own = taken.iter().filter(|guest| guest.source == source).count();
                if own >= self.rules.per_source && !self.make_room(&mut taken, |guest| guest.source == source)
                {
                    return None;
                }
                if taken.len() < self.rules.places || self.make_room(&mut taken, |_| true) {
                    let guest = Arc::new(Guest {
                        source,
                        since: Instant::now(),
                        asked: AtomicBool::new(false),
                        leave: CancellationToken::new(),
                    });
                    taken.push(Arc::clone(&guest));
                    return Some(Seat { seats: Arc::clone(self), guest });
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether somebody had to leave. They stand in the order in which they came.
    fn make_room(&self, taken: &mut Vec<Arc<Guest>>, among: impl Fn(&Guest) -> bool) -> bool {
        let silent = |guest: &Guest| !guest.asked.load(Relaxed);
        let slow = |guest: &Guest| guest.since.elapsed() >= self.rules.patience;
        let oldest = taken
            .iter()
            .position(|guest| among(guest) && silent(guest))
            .or_else(|| taken.iter().position(|guest| among(guest) && slow(guest)));
        oldest.map(|oldest| taken.remove(oldest).leave.cancel()).is_some()
    }
}

impl Seat {
    /// A request has come.
    pub(super) fn asked(&self) {
        self.guest.asked.store(true, Relaxed);
    }

    /// Somebody else needs the place.
    pub(super) async fn needed(&self) {
        self.guest.leave.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.lock().retain(|guest| !Arc::ptr_eq(guest, &self.guest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        places: 4,
        per_source: 2,
        patience: Duration::from_secs(5),
        head: Duration::from_secs(1),
        whole: Duration::from_secs(30),
        once: true,
        trusted: false,
    };

    fn from(pod: u8) -> Option<IpAddr> {
        Some([10, 0, 0, pod].into())
    }

    /// Else pods that connect and say nothing would keep the kubelet and Prometheus out.
    #[tokio::test(start_paused = true)]
    async fn the_silent_make_room_at_once() {
        let seats = Seats::new(RULES);
        let mut silent = Vec::new();
        for pod in 0..100 {
            silent.push(seats.seat(from(pod % 3)).await.expect("its own silent ones left"));
        }
        let started = Instant::now();
        let kubelet = seats.seat(from(9)).await.expect("a place");
        assert_eq!(started.elapsed(), Duration::ZERO);
        kubelet.asked();
        assert_eq!(seats.taken.lock().len(), RULES.places);
        let left = silent.iter().filter(|seat| seat.guest.leave.is_cancelled()).count();
        assert_eq!(left, 100 + 1 - RULES.places);
        assert!(!kubelet.guest.leave.is_cancelled());
    }

    /// Else one pod would hold as many pages as there are places, and slow readers all places until they are done.
    #[tokio::test(start_paused = true)]
    async fn those_who_read_slowly_have_their_share_and_their_time() {
        let seats = Seats::new(RULES);
        let mut slow = Vec::new();
        for pod in [1, 1, 2, 2] {
            let seat = seats.seat(from(pod)).await.expect("a place");
            seat.asked();
            slow.push(seat);
        }
        assert!(seats.seat(from(1)).await.is_none(), "more than its share");
        let started = Instant::now();
        let prometheus = seats.seat(from(9)).await.expect("a place");
        assert!(started.elapsed() >= RULES.patience - PAUSE && started.elapsed() <= RULES.patience + PAUSE);
        assert!(slow[0].guest.leave.is_cancelled(), "the oldest leaves");
        drop((slow, prometheus));
        assert!(seats.taken.lock().is_empty());
    }
}
