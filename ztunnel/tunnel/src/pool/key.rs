//! Which streams may share a connection: those that leave the same pod under the same identity, for the same proxy,
//! expecting the same of it. The pod implies the source address, by which the receiver knows the client. The port in
//! CONNECT is not part of it: all ports of a destination share.

use std::net::SocketAddr;

use model::{SpiffeId, TunnelRoute, WorkloadUid};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) source_uid: WorkloadUid,
    pub(crate) source: SpiffeId,
    /// Sorted, each once.
    pub(crate) expected: Box<[SpiffeId]>,
    pub(crate) gateway: SocketAddr,
}

impl From<TunnelRoute> for Key {
    fn from(route: TunnelRoute) -> Self {
        let TunnelRoute { source_uid, source, mut expected, gateway, .. } = route;
        expected.sort();
        expected.dedup();
        Self { source_uid, source, expected: expected.into(), gateway }
    }
}
