//! What proven peers do wrong with a whole tunnel, clients and servers alike: told in the log, in metrics and in the book of
//! refusals by one word. It belongs to no connection, so no ledger tells it.

use std::{fmt::Display, sync::Weak};

use model::{Role, SpiffeId, SvidSource};
use telemetry::{TunnelEnds, metrics::session_broken};
use tunnel::{Keeper, SessionEnd};

use crate::{Proxy, room::Seat};

/// An outbound tunnel's socket.
pub(crate) struct Dialed<S: SvidSource> {
    /// Which holds the pool and with it the tunnel.
    pub(crate) proxy: Weak<Proxy<S>>,
    /// With whom it is meant to be at the far end.
    pub(crate) ends: TunnelEnds,
    pub(crate) _seat: Seat,
}

impl<S: SvidSource> Proxy<S> {
    /// What the network did to a tunnel is nobody's fault; this is the peer's.
    pub(crate) fn broken(&self, ends: &TunnelEnds, end: &SessionEnd) {
        let role = match ends.role {
            Role::Outbound => "outbound",
            _ => "inbound",
        };
        session_broken(role, end.reason());
        self.fault(ends, end.reason(), end);
    }

    /// What is counted elsewhere.
    pub(crate) fn fault(&self, ends: &TunnelEnds, reason: &'static str, why: impl Display) {
        let (peer, address) = ends.peer();
        self.log.warn(reason, address, format_args!("{why}, of {peer}"));
        self.ledgers.refusals().note_tunnel(ends, reason, why);
    }
}

impl<S: SvidSource> Keeper for Dialed<S> {
    fn broken(&self, peer: &SpiffeId, end: &SessionEnd) {
        if let Some(proxy) = self.proxy.upgrade() {
            proxy.broken(&TunnelEnds { destination: peer.clone(), ..self.ends.clone() }, end);
        }
    }
}
