//! Pods whose traffic somebody else redirects: a CNI, by rules of netfilter in each pod's network namespace.
//!
//! Nothing of ours is attached there. The rules send connections to fixed ports, on which we listen; where a connection
//! was going is what netfilter remembers of it. Our own sockets carry the mark by which the rules let them pass, and by
//! which those of connections to the application lead the answers back to us.

use std::{
    future::pending,
    io,
    net::{Shutdown, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32},
};

use model::{OriginalDst, Role};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    EnrolledPod, NetworkNamespace, PodSpec, RedirectError,
    dns::original_destination,
    listener::listen_beside,
    pod::{Capture, Listeners, canonical},
};

/// Enrols pods that a CNI redirects.
#[derive(Debug)]
pub struct Captured {
    data_plane: Handle,
    /// Fired when another daemon takes over.
    leaving: CancellationToken,
}

impl Captured {
    /// The pods' listeners will be polled on `data_plane`.
    pub fn new(data_plane: Handle) -> Self {
        Self { data_plane, leaving: CancellationToken::new() }
    }

    pub(crate) fn enrol(&self, spec: PodSpec) -> Result<EnrolledPod, RedirectError> {
        let namespace = NetworkNamespace::of(&spec)?;
        if namespace.is_home().map_err(inside("comparing it with the daemon's own"))? {
            let problem = "its network namespace is the daemon's own";
            return Err(RedirectError::Pod { uid: spec.uid.to_string(), problem });
        }
        let cookie = namespace.cookie().map_err(inside("asking for its cookie"))?;
        let listeners = Listeners::open(|role| self.listen(&namespace, role))?;
        let capture = Capture::Rules { leaving: self.leaving.clone() };
        let (captured, older) = (AtomicBool::new(true), Mutex::default());
        let (entry, program) = (Mutex::default(), AtomicU32::default());
        Ok(EnrolledPod { spec, namespace, cookie, listeners, capture, captured, older, entry, program })
    }

    /// What has arrived already is taken; whoever comes later is another daemon's, or refused.
    pub(crate) fn hand_over(&self) {
        self.leaving.cancel();
    }

    fn listen(&self, namespace: &NetworkNamespace, role: Role) -> Result<TcpListener, RedirectError> {
        let listener = namespace.enter(|| listen_beside(role)).and_then(|listener| listener);
        let _data_plane = self.data_plane.enter();
        listener.and_then(TcpListener::from_std).map_err(inside(listening(role)))
    }
}

/// The next connection, or never again once `leaving` has fired and all that had arrived before are taken.
pub(crate) async fn accept_until(
    leaving: &CancellationToken,
    listener: &TcpListener,
) -> io::Result<(TcpStream, SocketAddr)> {
    tokio::select! {
        biased;
        arrived = listener.accept() => arrived,
        () = leaving.cancelled() => {
            // The port is free at once, whoever else holds the descriptor.
            SockRef::from(listener).shutdown(Shutdown::Both)?;
            pending().await
        }
    }
}

/// Where the client was going. `None` if it came to the listener by itself, past all rules: to serve it would have the
/// daemon connect to itself.
pub(crate) fn destination(role: Role, stream: &TcpStream) -> Option<OriginalDst> {
    // A client that has gone already leaves a socket without a name.
    let local = stream.local_addr().ok().map(canonical)?;
    let destination = match role {
        Role::InboundHbone => local,
        Role::Outbound | Role::InboundPlaintext => {
            original_destination(stream).ok().map(canonical).filter(|original| *original != local)?
        }
    };
    (!destination.ip().is_loopback()).then_some(OriginalDst(destination))
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
