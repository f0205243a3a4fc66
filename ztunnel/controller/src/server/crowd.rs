//! Connections of which nobody knows yet whether a daemon is at the other end: few, for a short time, and when there are
//! too many, the oldest goes of the source that has the most.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Of all. A daemon is one of them for as long as its first request takes.
const AT_ONCE: usize = 1_024;

#[derive(Default)]
pub(crate) struct Crowd {
    strangers: Mutex<VecDeque<Guest>>,
}

/// A connection; clones are the same one.
#[derive(Clone)]
pub(crate) struct Guest(Arc<Inner>);

struct Inner {
    from: IpAddr,
    is_proven: AtomicBool,
    cut: CancellationToken,
}

impl Crowd {
    pub(crate) fn admit(&self, from: IpAddr) -> Guest {
        let guest =
            Guest(Arc::new(Inner { from, is_proven: AtomicBool::new(false), cut: CancellationToken::new() }));
        let mut strangers = self.strangers.lock();
        strangers.retain(|guest| !guest.is_proven() && !guest.0.cut.is_cancelled());
        if strangers.len() >= AT_ONCE
            && let Some(oldest) = of_the_most(&strangers)
            && let Some(oldest) = strangers.remove(oldest)
        {
            oldest.cut();
        }
        strangers.push_back(guest.clone());
        guest
    }
}

/// The place of the oldest.
fn of_the_most(strangers: &VecDeque<Guest>) -> Option<usize> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for guest in strangers {
        *counts.entry(guest.0.from).or_default() += 1;
    }
    let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    strangers.iter().position(|guest| guest.0.from == most)
}

impl Guest {
    /// A request on it had a daemon's token.
    pub(crate) fn prove(&self) {
        self.0.is_proven.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.0.is_proven.load(Ordering::Relaxed)
    }

    /// Ends it at once, with all that waits to be sent on it.
    pub(crate) fn cut(&self) {
        self.0.cut.cancel();
    }

    pub(crate) async fn is_cut(&self) {
        self.0.cut.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Fails if idle connections of one source kept others out, or took a place from who has proven itself.
    #[test]
    fn a_flood_cuts_itself() {
        let crowd = Crowd::default();
        let source = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
        let (daemon, proven) = (crowd.admit(source(1)), crowd.admit(source(2)));
        proven.prove();
        let flood: Vec<Guest> = (0..10 * AT_ONCE).map(|_| crowd.admit(source(2))).collect();
        let is_cut = |guest: &Guest| guest.0.cut.is_cancelled();
        assert!(!is_cut(&daemon) && !is_cut(&proven));
        assert_eq!(flood.iter().filter(|guest| !is_cut(guest)).count(), AT_ONCE - 1);
        assert!(!is_cut(&flood[flood.len() - 1]), "the newest goes before the oldest");
    }
}
