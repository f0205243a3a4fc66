//! The pods that this daemon serves, known to each other: a connection between two of them need not leave the node.

use std::{collections::HashMap, net::SocketAddr, pin::Pin, sync::Arc};

use model::{ClientAddr, SvidSource, TunnelRoute, WorkloadUid};
use parking_lot::RwLock;
use telemetry::TraceId;

use crate::{PodSockets, direct::Entered, failure::Failure, inbound::Guest, serve::Pod};

/// A pod as another of the same daemon sees it.
pub(crate) trait Neighbour: Send + Sync {
    fn uid(&self) -> &WorkloadUid;

    /// Whether the route's end is this pod as it is enrolled now: not as somebody says that it is, and not while it leaves.
    fn is_end_of(&self, route: &TunnelRoute) -> bool;

    fn receive(self: Arc<Self>, guest: Guest, trace: TraceId) -> Receiving;
}

type Receiving = Pin<Box<dyn Future<Output = Result<Entered, Failure>> + Send>>;

#[derive(Default)]
pub(crate) struct Neighbours(RwLock<HashMap<WorkloadUid, Arc<dyn Neighbour>>>);

impl Neighbours {
    /// It is known for as long as what is answered is held. A pod that is enrolled anew takes its predecessor's place.
    pub(crate) fn enter(&self, pod: Arc<dyn Neighbour>) -> Beside<'_> {
        self.0.write().insert(pod.uid().clone(), Arc::clone(&pod));
        Beside { neighbours: self, pod }
    }

    pub(crate) fn end_of(&self, route: &TunnelRoute) -> Option<Arc<dyn Neighbour>> {
        let pod = self.0.read().get(&route.destination.uid).map(Arc::clone)?;
        pod.is_end_of(route).then_some(pod)
    }
}

/// A pod's entry, for as long as it is held.
pub(crate) struct Beside<'a> {
    neighbours: &'a Neighbours,
    pod: Arc<dyn Neighbour>,
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        let mut pods = self.neighbours.0.write();
        if pods.get(self.pod.uid()).is_some_and(|current| Arc::ptr_eq(current, &self.pod)) {
            pods.remove(self.pod.uid());
        }
    }
}

impl<S: SvidSource, P: PodSockets> Neighbour for Pod<S, P> {
    fn uid(&self) -> &WorkloadUid {
        &self.local.uid
    }

    fn is_end_of(&self, route: &TunnelRoute) -> bool {
        let ip = route.authority.ip();
        // Once it drains, a successor knows better who is enrolled.
        !self.stop.drain.is_cancelled() && self.sockets.address(ip) == Some(ip)
    }

    fn receive(self: Arc<Self>, guest: Guest, trace: TraceId) -> Receiving {
        Box::pin(self.let_neighbour_in(guest, trace))
    }
}

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    /// The address that a tunnel to `route`'s end would come from. The application's own may be any that it has bound.
    pub(crate) fn address_towards(
        &self,
        route: &TunnelRoute,
        ClientAddr(client): ClientAddr,
    ) -> Option<ClientAddr> {
        let ip = self.sockets.address(route.authority.ip())?;
        Some(ClientAddr(SocketAddr::new(ip, client.port())))
    }
}
