//! An enrolled pod, as the proxy uses it: what arrives for it, and the connections it needs.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use abi::{MAX_EXCLUDED_PORTS, pod_flags};
use model::{ClientAddr, OriginalDst, Role, WorkloadUid};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{NetworkNamespace, RedirectError, address::words, captured, listener::was_steered, socket};

/// What an enrolled pod's traffic does when no daemon is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailMode {
    /// Connections are refused.
    #[default]
    Closed,
    /// Connections pass in plaintext.
    Open,
}

/// What enrolment needs to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    pub uid: WorkloadUid,
    /// Any path that opens as the pod's network namespace.
    pub netns: PathBuf,
    /// Its device and inode, if the path alone does not say which namespace is meant.
    pub netns_identity: Option<(u64, u64)>,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub fail_mode: FailMode,
    /// It does not accept everybody, so all its addresses are guarded.
    pub strict: bool,
    /// Destination ports, at most eight, that its connections reach uncaptured.
    pub excluded_outbound: Vec<u16>,
    /// Its own ports, at most eight, that are reached uncaptured.
    pub excluded_inbound: Vec<u16>,
}

/// A connection that was steered to the daemon.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub client: ClientAddr,
    pub destination: OriginalDst,
}

/// Holding it keeps the pod's namespace alive; a deleted pod must be un-enrolled.
#[derive(Debug)]
pub struct EnrolledPod {
    pub(crate) spec: PodSpec,
    pub(crate) namespace: NetworkNamespace,
    pub(crate) cookie: u64,
    pub(crate) listeners: Listeners,
    pub(crate) capture: Capture,
    /// Whether its new connections come to us; those that stand go on without.
    pub(crate) captured: AtomicBool,
    /// The application's connections that are older than this enrolment: own end, far end.
    pub(crate) older: Mutex<HashMap<(SocketAddr, SocketAddr), Role>>,
    /// What the kernel was told last.
    pub(crate) entry: Mutex<abi::Pod>,
    /// The id of its own lookup program, 0 where a CNI redirects.
    pub(crate) program: AtomicU32,
}

/// Who brings the pod's connections to the listeners.
#[derive(Debug)]
pub(crate) enum Capture {
    /// Our programs, which know our own sockets by the map behind this.
    Programs { owners: Arc<OwnedFd> },
    /// The rules of a CNI. When it fires, another daemon listens in our place.
    Rules { leaving: CancellationToken },
}

/// One for each role. A pod with CAP_NET_ADMIN can close them; then each is replaced by itself, since somebody waits at
/// the others.
#[derive(Debug)]
pub(crate) struct Listeners {
    outbound: Mutex<Arc<TcpListener>>,
    plaintext: Mutex<Arc<TcpListener>>,
    hbone: Mutex<Arc<TcpListener>>,
}

impl EnrolledPod {
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    pub fn namespace(&self) -> &NetworkNamespace {
        &self.namespace
    }

    pub fn is_captured(&self) -> bool {
        self.captured.load(Relaxed)
    }

    /// The next connection of `role`. Its role is that of the listener; the addresses prove nothing.
    pub async fn accept(&self, role: Role) -> io::Result<Accepted> {
        let listener = self.listeners.of(role);
        loop {
            let (stream, client) = match &self.capture {
                Capture::Programs { .. } => listener.accept().await?,
                Capture::Rules { leaving } => captured::accept_until(leaving, &listener).await?,
            };
            let destination = match &self.capture {
                Capture::Programs { .. } => self.steered_to(role, &listener, &stream),
                Capture::Rules { .. } => captured::destination(role, &stream),
            };
            if let Some(destination) = destination {
                return Ok(Accepted { stream, client: ClientAddr(canonical(client)), destination });
            }
        }
    }

    /// `None` if it did not come by way of the lookup program.
    fn steered_to(&self, role: Role, listener: &TcpListener, stream: &TcpStream) -> Option<OriginalDst> {
        // A client that has gone already leaves a socket without a name.
        let destination = stream.local_addr().ok().map(canonical)?;
        let is_own_address = self.spec.addresses().any(|ip| ip == destination.ip());
        let own_port = || Some(listener.local_addr().ok()?.port());
        was_steered(role, own_port, is_own_address, destination).then_some(OriginalDst(destination))
    }

    /// From the pod's own address; never captured.
    pub async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        socket::connect(&self.namespace, self.owners(), target).await
    }

    /// To the pod's application, as if from `source`; from the pod itself if there is none.
    pub async fn connect_application(
        &self,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> io::Result<TcpStream> {
        socket::connect_application(&self.namespace, self.owners(), source, target).await
    }

    fn owners(&self) -> Option<BorrowedFd<'_>> {
        match &self.capture {
            Capture::Programs { owners } => Some(owners.as_fd()),
            Capture::Rules { .. } => None,
        }
    }
}

impl Listeners {
    pub(crate) fn open<E>(listen: impl Fn(Role) -> Result<TcpListener, E>) -> Result<Self, E> {
        let slot = |role| listen(role).map(|listener| Mutex::new(Arc::new(listener)));
        Ok(Self {
            outbound: slot(Role::Outbound)?,
            plaintext: slot(Role::InboundPlaintext)?,
            hbone: slot(Role::InboundHbone)?,
        })
    }

    pub(crate) fn of(&self, role: Role) -> Arc<TcpListener> {
        Arc::clone(&self.slot(role).lock())
    }

    pub(crate) fn replace(&self, role: Role, listener: TcpListener) {
        *self.slot(role).lock() = Arc::new(listener);
    }

    pub(crate) fn closed(&self) -> Vec<Role> {
        // One that cannot even be asked does not listen.
        let is_open = |role| SockRef::from(&*self.of(role)).is_listener().unwrap_or(false);
        Role::ALL.into_iter().filter(|role| !is_open(*role)).collect()
    }

    fn slot(&self, role: Role) -> &Mutex<Arc<TcpListener>> {
        match role {
            Role::Outbound => &self.outbound,
            Role::InboundPlaintext => &self.plaintext,
            Role::InboundHbone => &self.hbone,
        }
    }
}

impl PodSpec {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    pub(crate) fn check(&self) -> Result<(), RedirectError> {
        let too_many = |ports: &[u16]| ports.len() > MAX_EXCLUDED_PORTS;
        let problem = if self.addresses().next().is_none() {
            "it has no IP address"
        } else if self.addresses().any(|ip| words(ip).is_local_only()) {
            "its IP address is a loopback, link-local or multicast address"
        } else if too_many(&self.excluded_inbound) || too_many(&self.excluded_outbound) {
            "it excludes more than 8 ports in one direction"
        } else {
            return Ok(());
        };
        Err(RedirectError::Pod { uid: self.uid.to_string(), problem })
    }

    /// As the kernel side reads it.
    pub(crate) fn entry(&self) -> abi::Pod {
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        abi::Pod {
            v4: self.v4.map(|ip| words(ip.into())).unwrap_or_default(),
            v6: self.v6.map(|ip| words(ip.into())).unwrap_or_default(),
            flags: flag(self.fail_mode == FailMode::Closed, pod_flags::FAIL_CLOSED)
                | flag(self.strict, pod_flags::STRICT),
            reserved: 0,
            excluded_outbound: ports(&self.excluded_outbound),
            excluded_inbound: ports(&self.excluded_inbound),
        }
    }
}

fn ports(excluded: &[u16]) -> [u16; MAX_EXCLUDED_PORTS] {
    let mut ports = [0; MAX_EXCLUDED_PORTS];
    ports.iter_mut().zip(excluded).for_each(|(slot, port)| *slot = *port);
    ports
}

/// The listeners are dual-stack: IPv4 comes mapped.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
