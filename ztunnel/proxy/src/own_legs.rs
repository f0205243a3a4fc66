//! The connections this proxy has opened to the application of one pod. They carry the client's address, so if
//! steering ever failed to tell them from the client's own, each would come back as a new arrival, for ever.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;

/// Local and remote address. Two connections of one namespace never share both, so nobody else's is mistaken.
pub(crate) type Ends = (SocketAddr, SocketAddr);

#[derive(Debug, Default)]
pub(crate) struct OwnLegs(Mutex<HashSet<Ends>>);

impl OwnLegs {
    pub(crate) fn enter(self: &Arc<Self>, ends: Ends) -> OwnLeg {
        self.0.lock().insert(ends);
        OwnLeg { legs: Arc::clone(self), ends }
    }

    pub(crate) fn contains(&self, ends: Ends) -> bool {
        self.0.lock().contains(&ends)
    }
}

/// One such connection, for as long as it is held.
#[derive(Debug)]
pub(crate) struct OwnLeg {
    legs: Arc<OwnLegs>,
    ends: Ends,
}

impl Drop for OwnLeg {
    fn drop(&mut self) {
        self.legs.0.lock().remove(&self.ends);
    }
}
