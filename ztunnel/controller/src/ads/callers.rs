//! How many streams each daemon has: the one that it uses, and one that it may not have noticed to be dead. With a third, the
//! oldest ends, so that nobody has more of what all share by asking again and again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::authentication::Caller;

const STREAMS: usize = 2;

/// By pod.
type Streams = HashMap<String, VecDeque<CancellationToken>>;

#[derive(Clone, Default)]
pub(super) struct Callers(Arc<Mutex<Streams>>);

/// A stream of a daemon, for as long as it is held.
pub(super) struct Turn {
    callers: Callers,
    pod: String,
    over: CancellationToken,
}

impl Callers {
    pub(super) fn enter(&self, caller: &Caller) -> Turn {
        let name = caller.pod_uid.as_ref().or(caller.pod.as_ref());
        let pod = name.cloned().unwrap_or_default();
        let over = CancellationToken::new();
        let mut callers = self.0.lock();
        let streams = callers.entry(pod.clone()).or_default();
        streams.push_back(over.clone());
        if streams.len() > STREAMS
            && let Some(oldest) = streams.pop_front()
        {
            oldest.cancel();
        }
        drop(callers);
        Turn { callers: self.clone(), pod, over }
    }
}

impl Turn {
    pub(super) async fn is_over(&self) {
        self.over.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.over.cancel();
        let mut callers = self.callers.0.lock();
        if let Some(streams) = callers.get_mut(&self.pod) {
            streams.retain(|over| !over.is_cancelled());
            if streams.is_empty() {
                callers.remove(&self.pod);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if one daemon could have many streams, or if what has ended were kept.
    #[test]
    fn the_third_stream_ends_the_first() {
        let callers = Callers::default();
        let caller = |pod: &str| Caller { pod: Some(pod.to_owned()), pod_uid: None, node: None };
        let turns: Vec<Turn> = (0..3).map(|_| callers.enter(&caller("a"))).collect();
        let other = callers.enter(&caller("b"));
        let over: Vec<bool> = turns.iter().map(|turn| turn.over.is_cancelled()).collect();
        assert_eq!(over, [true, false, false]);
        assert!(!other.over.is_cancelled());
        drop((turns, other));
        assert!(callers.0.lock().is_empty());
    }
}
