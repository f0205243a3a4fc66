//! A pod whose traffic somebody else redirects: a CNI, by rules of netfilter in the pod's network namespace.
//!
//! Nothing of ours is attached there. The rules send connections to fixed ports, on which we listen; where a connection
//! was going is what netfilter remembers of it. Our own sockets carry the mark by which the rules let them pass, and by
//! which those of connections to the application lead the answers back to us.

use std::{
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};

use model::{ClientAddr, OriginalDst, Role, WorkloadUid};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Accepted, NetworkNamespace, RedirectError, dns::original_destination, listener, pod::canonical, socket,
};

/// Holding it keeps the pod's namespace alive.
#[derive(Debug)]
pub struct CapturedPod {
    namespace: NetworkNamespace,
    /// By role; empty once they are closed.
    listeners: [Mutex<Option<Arc<TcpListener>>>; Role::ALL.len()],
    stopped: CancellationToken,
}

impl CapturedPod {
    /// Listens in the namespace that `netns` is. The listeners are polled on `data_plane`.
    pub fn open(uid: &WorkloadUid, netns: OwnedFd, data_plane: &Handle) -> Result<Self, RedirectError> {
        let namespace = NetworkNamespace::from_descriptor(netns)?;
        if namespace.is_home().map_err(inside("comparing it with the daemon's own"))? {
            let problem = "its network namespace is the daemon's own";
            return Err(RedirectError::Pod { uid: uid.to_string(), problem });
        }
        let _data_plane = data_plane.enter();
        let listen = |role| {
            let bound = namespace.enter(|| listener::listen_beside(role)).and_then(|listener| listener);
            let listener = bound.and_then(TcpListener::from_std).map_err(inside(listening(role)))?;
            Ok::<_, RedirectError>(Mutex::new(Some(Arc::new(listener))))
        };
        let listeners = [listen(Role::ALL[0])?, listen(Role::ALL[1])?, listen(Role::ALL[2])?];
        Ok(Self { namespace, listeners, stopped: CancellationToken::new() })
    }

    pub fn namespace(&self) -> &NetworkNamespace {
        &self.namespace
    }

    /// Takes what has arrived already, then listens no more: whoever comes later is another daemon's, or refused.
    pub fn stop_listening(&self) {
        self.stopped.cancel();
    }

    /// The next connection of `role`; never, once all that had arrived are taken after [`Self::stop_listening`].
    pub async fn accept(&self, role: Role) -> io::Result<Accepted> {
        loop {
            let Some(listener) = self.listener(role) else { return pending().await };
            let (stream, client) = tokio::select! {
                biased;
                arrived = listener.accept() => arrived?,
                () = self.stopped.cancelled() => {
                    *self.slot(role).lock() = None;
                    continue;
                }
            };
            if let Some(destination) = destination(role, &stream) {
                let client = ClientAddr(canonical(client));
                return Ok(Accepted { stream, client, destination });
            }
        }
    }

    /// From the pod's own address; never captured.
    pub async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket::open_marked(&self.namespace, target)?;
        socket::into_tokio(socket).connect(target).await
    }

    /// To the pod's application, as if from `source`; from the pod itself if there is none. The CNI's rules remember the
    /// mark, and lead the answers back.
    pub async fn connect_application(
        &self,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> io::Result<TcpStream> {
        let Some(source) = source else { return self.connect(target).await };
        socket::connect_as(source, target, || socket::open_marked(&self.namespace, target)).await
    }

    fn listener(&self, role: Role) -> Option<Arc<TcpListener>> {
        self.slot(role).lock().clone()
    }

    fn slot(&self, role: Role) -> &Mutex<Option<Arc<TcpListener>>> {
        &self.listeners[role as usize]
    }
}

/// Where the client was going. `None` if it came to the listener by itself, past all rules: to serve it would have the
/// daemon connect to itself.
fn destination(role: Role, stream: &TcpStream) -> Option<OriginalDst> {
    // A client that has gone already leaves a socket without a name.
    let local = stream.local_addr().ok().map(canonical)?;
    let destination = match role {
        Role::InboundHbone => local,
        Role::Outbound | Role::InboundPlaintext => original_destination(stream).map(canonical).ok()?,
    };
    let came_by_itself = role != Role::InboundHbone && destination == local;
    (!came_by_itself && !destination.ip().is_loopback()).then_some(OriginalDst(destination))
}

fn listening(role: Role) -> &'static str {
    match role {
        Role::Outbound => "listening on port 15001",
        Role::InboundPlaintext => "listening on port 15006",
        Role::InboundHbone => "listening on port 15008",
    }
}

fn inside(what: &'static str) -> impl Fn(io::Error) -> RedirectError {
    move |source| RedirectError::InNamespace { what, source }
}
