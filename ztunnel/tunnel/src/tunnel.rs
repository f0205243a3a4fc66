//! The two doors of the tunnel: out by [`Tunnel::dial`], in by [`Tunnel::terminate`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use model::{Permit, Revoked, SpiffeId, Svid, SvidSource, TunnelRoute, WorkloadUid};
use rustls::CommonState;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    ConnectHeaders, Lane, Session, SessionEnd, TunnelSettings, TunnelStream, Turnstile, Usage,
    error::{DialError, Phase, TerminateError, TlsFailure},
    pool::{Driver, Establish, Key, Live, Pool, start},
    tls::{Identities, Identity, Revocation, Standing, classify, instant, peer, require_http2},
    window::{Budget, Budgets, Gauge},
};

/// Makes the TCP connection from inside the source pod.
pub type ConnectFn = Box<dyn FnOnce(SocketAddr) -> BoxFuture<'static, io::Result<Connected>> + Send>;

/// A TCP connection for a tunnel.
pub struct Connected {
    pub stream: TcpStream,
    /// Dropped when the connection has ended.
    pub held: Box<dyn Keeper>,
}

/// Who made the TCP connection for a tunnel and holds what belongs to it.
pub trait Keeper: Send {
    /// The server, which has proven to be `peer`, ended the tunnel by its fault. Must return at once.
    fn broken(&self, _peer: &SpiffeId, _end: &SessionEnd) {}
}

impl Keeper for () {}

/// Clones share connections, configurations and budget.
pub struct Tunnel<S: SvidSource>(Arc<Inner<S>>);

/// A stream that the peer has accepted.
#[derive(Debug)]
pub struct Dialed {
    pub stream: TunnelStream,
    /// Who the far proxy has proven to be.
    pub peer: SpiffeId,
    /// The source address of the connection that carries the stream.
    pub local: SocketAddr,
    /// What the far side says of itself.
    pub baggage: Option<String>,
}

/// What tunnels hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelLoad {
    /// Outbound, those that are still being made included.
    pub connections: usize,
    /// Open streams, outbound and inbound.
    pub streams: usize,
    /// Bytes received and not yet handed on, as each stream's reader last saw it.
    pub buffered: usize,
    /// How often an outbound tunnel came to have all the streams that it may, ever,
    pub full_outbound: u64,
    /// and an inbound one.
    pub full_inbound: u64,
}

struct Inner<S> {
    settings: TunnelSettings,
    svids: Arc<S>,
    identities: Identities,
    revocation: Arc<Revocation>,
    budgets: Budgets,
    turnstile: Turnstile,
    pool: Arc<Pool>,
}

impl<S: SvidSource> Tunnel<S> {
    pub fn new(settings: TunnelSettings, svids: Arc<S>) -> Self {
        let budgets = Budgets::new(&settings.windows);
        let pool = Pool::new(&settings, &budgets);
        let turnstile = Turnstile::new(settings.turns);
        let revocation = Arc::<Revocation>::default();
        let identities = Identities::new(Arc::clone(&revocation));
        Self(Arc::new(Inner { settings, svids, identities, revocation, budgets, turnstile, pool }))
    }

    /// Where whatever it takes to make a connection takes its turns. Outbound handshakes do so by themselves.
    pub fn turnstile(&self) -> &Turnstile {
        &self.0.turnstile
    }

    pub fn usage(&self) -> [Usage; 3] {
        let Inner { settings, turnstile, budgets, pool, .. } = &*self.0;
        let usage = |limit, (used, allowed)| Usage { limit, used, allowed };
        [
            usage("turns", turnstile.in_use()),
            usage("outbound_tunnels", (pool.connections(), settings.pool_connections)),
            usage("window_bytes", (budgets.used(), settings.windows.total)),
        ]
    }

    /// What tunnels hold now.
    pub fn load(&self) -> TunnelLoad {
        let (streams, buffered) = self.0.budgets.load.now();
        let (full_outbound, full_inbound) = self.0.budgets.load.full();
        TunnelLoad { connections: self.0.pool.connections(), streams, buffered, full_outbound, full_inbound }
    }

    /// The bytes that may be held for pods outside of tunnels.
    pub fn plaintext_budget(&self) -> Budget {
        self.0.budgets.plaintext.clone()
    }

    /// Whether a certificate of `identity` is at hand, so that nobody waits for one. If not, it is asked for.
    pub fn has_svid(&self, identity: &SpiffeId) -> bool {
        let at_once = self.0.svids.svid(identity).now_or_never();
        at_once.is_some_and(|answer| answer.is_ok())
    }

    /// From now on these certificates prove nothing, in either direction. Connections that stand on one of them end.
    pub fn revoke(&self, revoked: &Arc<Revoked>) {
        self.0.revocation.replace(revoked);
    }

    /// One CONNECT stream along the permitted route. `connect` makes the TCP connection if there is none to share.
    /// A stream that an old connection did not take is tried on another.
    pub async fn dial(
        &self,
        permit: Permit<TunnelRoute>,
        headers: ConnectHeaders,
        connect: ConnectFn,
    ) -> Result<Dialed, DialError> {
        let route = permit.into_route();
        let request = headers.into_request(route.authority)?;
        let key = Key::from(route);
        let establish = self.establish(key.clone(), connect);
        self.0.pool.open(&key, establish, request, self.0.settings.deadlines.answer).await
    }

    /// The server's side, on a connection that was accepted on port 15008 of a pod whose identity is `identity`.
    pub async fn terminate(&self, tcp: TcpStream, identity: &SpiffeId) -> Result<Session, TerminateError> {
        let Inner { settings, identities, budgets, .. } = &*self.0;
        let svid = self.0.svid::<TerminateError>(identity).await?;
        let own = identities.of(&svid, &self.0.svids.trust()).map_err(TerminateError::Certificate)?;
        without_delay(&tcp);
        let handshake = TlsAcceptor::from(own.server()).accept(tcp);
        let stream = within(Phase::Tls, settings.deadlines.tls, handshake).await?.map_err(classify)?;
        let peer = peer(stream.get_ref().1)?;
        let standing = self.0.stand(stream.get_ref().1, &peer.identity, &own)?;
        let preface = Session::start(stream, (peer, standing), settings, (budgets, identity));
        within(Phase::Preface, settings.deadlines.preface, preface)
            .await?
            .map_err(|error| TerminateError::Http2(Arc::new(error)))
    }

    /// Pooled connections that leave this workload end now: its pod is gone.
    pub fn retire(&self, source: &WorkloadUid) {
        self.0.pool.retire(source);
        self.0.identities.sweep();
    }

    /// Nothing is dialed any more. Open streams go on.
    pub fn drain(&self) {
        self.0.pool.drain();
    }

    fn establish(&self, key: Key, connect: ConnectFn) -> Establish {
        let inner = Arc::clone(&self.0);
        let lane = Lane { pod: key.source_uid.clone(), source: key.gateway.ip() };
        Box::new(move |gauge| {
            Box::pin(async move { inner.turnstile.pass(lane, inner.establish(key, connect, gauge)).await })
        })
    }
}

impl<S: SvidSource> Inner<S> {
    async fn establish(
        &self,
        key: Key,
        connect: ConnectFn,
        gauge: Arc<Gauge>,
    ) -> Result<(Live, Box<Driver>), DialError> {
        let deadlines = &self.settings.deadlines;
        let svid = self.svid::<DialError>(&key.source).await?;
        let own = self.identities.of(&svid, &self.svids.trust()).map_err(DialError::Certificate)?;
        let config = own.client(&key.expected);
        let connected = within(Phase::Connect, deadlines.connect, connect(key.gateway)).await?;
        let Connected { stream: tcp, held } = connected.map_err(connecting)?;
        let began = Instant::now();
        without_delay(&tcp);
        let local = tcp.local_addr().map_err(connecting)?;
        // An address is never sent as SNI; whom to expect, the configuration says.
        let name = ServerName::IpAddress(key.gateway.ip().into());
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let stream = within(Phase::Tls, deadlines.tls, handshake)
            .await?
            .map_err(|error| handshaking(classify(error), &key))?;
        require_http2(stream.get_ref().1).map_err(DialError::Tls)?;
        let mut peer = peer(stream.get_ref().1).map_err(DialError::Tls)?;
        peer.until = peer.until.min(instant(svid.not_after));
        let standing = self.stand(stream.get_ref().1, &peer.identity, &own).map_err(DialError::Tls)?;
        let preface = start(stream, (peer, standing, local), gauge, &self.settings, &self.budgets);
        let (live, driver) = within(Phase::Preface, deadlines.preface, preface)
            .await?
            .map_err(|error| DialError::Http2(Arc::new(error)))?;
        self.settings.handshakes.tell(began.elapsed());
        Ok((live, Box::new(driver.holding(held))))
    }

    /// From here on the connection ends with the certificates that have just been proven on it.
    fn stand(
        &self,
        connection: &CommonState,
        peer: &SpiffeId,
        own: &Identity,
    ) -> Result<Standing, TlsFailure> {
        let chain = connection.peer_certificates().unwrap_or_default();
        self.revocation.enter(peer.trust_domain(), chain, own.ids())
    }

    async fn svid<E: From<Phase> + From<model::SvidError>>(
        &self,
        identity: &SpiffeId,
    ) -> Result<Arc<Svid>, E> {
        Ok(within(Phase::Svid, self.settings.deadlines.svid, self.svids.svid(identity)).await??)
    }
}

impl From<TcpStream> for Connected {
    fn from(stream: TcpStream) -> Self {
        Self { stream, held: Box::new(()) }
    }
}

impl<S: SvidSource> Clone for Tunnel<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

async fn within<F: Future>(phase: Phase, limit: Duration, step: F) -> Result<F::Output, Phase> {
    timeout(limit, step).await.map_err(|_| phase)
}

/// HTTP/2 frames are complete messages: waiting for more only delays them.
fn without_delay(tcp: &TcpStream) {
    // Fails only on a socket that is gone, which the handshake notices.
    let _ = tcp.set_nodelay(true);
}

fn connecting(error: io::Error) -> DialError {
    DialError::Connect(Arc::new(error))
}

fn handshaking(failure: TlsFailure, key: &Key) -> DialError {
    match failure {
        TlsFailure::PeerIdentity { found } => {
            DialError::PeerIdentity { found, expected: key.expected.to_vec() }
        }
        other => DialError::Tls(other),
    }
}
