//! Two ends of a tunnel: one listens and tells what happens, the other dials.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use model::{
    OriginalDst, Permit, Route, Snapshot, SpiffeId, TunnelRoute, Workload, WorkloadUid,
    authorize::{OutboundPermit, authorize_outbound},
    svid::SvidSource,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use ztunnel_tunnel::{
    ConnectFn, ConnectHeaders, DialError, Dialed, Request, TerminateError, TlsFacts, Tunnel, TunnelSettings,
};

use crate::authority::{Authority, Certificates, id};

/// A client and a server whose certificates are good.
pub(crate) struct Mesh {
    pub(crate) client: Client,
    pub(crate) server: Server,
}

pub(crate) struct Client {
    pub(crate) tunnel: Tunnel<Certificates>,
    pub(crate) connects: Arc<AtomicUsize>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) drain: Arc<Notify>,
    events: mpsc::UnboundedReceiver<Event>,
}

#[derive(Debug)]
pub(crate) enum Event {
    Refused(TerminateError),
    Opened { peer: SpiffeId, tls: TlsFacts },
    Request(Request),
    Ended { reason: &'static str, rejected: u64 },
}

impl Mesh {
    pub(crate) async fn new() -> Self {
        Self::with(TunnelSettings::default(), TunnelSettings::default()).await
    }

    pub(crate) async fn with(client: TunnelSettings, server: TunnelSettings) -> Self {
        let authority = Authority::new("mesh");
        let server = Tunnel::new(server, Certificates::new([authority.svid(&id("server"))]));
        let client = Tunnel::new(client, Certificates::new([authority.svid(&id("client"))]));
        Self { client: Client::new(client), server: Server::new(server).await }
    }

    /// A stream with both its ends: the dialer's and the listener's.
    pub(crate) async fn stream(&mut self) -> (Dialed, ztunnel_tunnel::TunnelStream) {
        let address = self.server.address;
        let accepting = async { self.server.request().await.accept("").unwrap() };
        let (dialed, accepted) = tokio::join!(self.client.dial(address), accepting);
        (dialed.unwrap(), accepted)
    }
}

impl Client {
    pub(crate) fn new(tunnel: Tunnel<Certificates>) -> Self {
        Self { tunnel, connects: Arc::default() }
    }

    pub(crate) async fn dial(&self, gateway: SocketAddr) -> Result<Dialed, DialError> {
        self.dial_with(gateway, ConnectHeaders::default()).await
    }

    pub(crate) async fn dial_with(
        &self,
        gateway: SocketAddr,
        headers: ConnectHeaders,
    ) -> Result<Dialed, DialError> {
        self.tunnel.dial(permit("client", "server", gateway), headers, self.connect()).await
    }

    pub(crate) fn connect(&self) -> ConnectFn {
        let connects = Arc::clone(&self.connects);
        Box::new(move |address| {
            connects.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { TcpStream::connect(address).await.map(Into::into) })
        })
    }

    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }
}

impl Server {
    pub(crate) async fn new<S: SvidSource>(tunnel: Tunnel<S>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let drain = Arc::new(Notify::new());
        tokio::spawn(listen(listener, tunnel, sender, Arc::clone(&drain)));
        Self { address, drain, events }
    }

    pub(crate) async fn event(&mut self) -> Event {
        self.events.recv().await.expect("the listener goes on")
    }

    pub(crate) async fn request(&mut self) -> Request {
        loop {
            match self.event().await {
                Event::Request(request) => return request,
                Event::Refused(error) => panic!("refused: {error}"),
                Event::Opened { .. } | Event::Ended { .. } => {}
            }
        }
    }

    pub(crate) async fn refusal(&mut self) -> TerminateError {
        loop {
            if let Event::Refused(error) = self.event().await {
                return error;
            }
        }
    }

    pub(crate) async fn ended(&mut self) -> (&'static str, u64) {
        loop {
            if let Event::Ended { reason, rejected } = self.event().await {
                return (reason, rejected);
            }
        }
    }
}

/// Leave to connect to `to`, as `from`, through the proxy at `gateway`.
pub(crate) fn permit(from: &str, to: &str, gateway: SocketAddr) -> Permit<TunnelRoute> {
    permit_expecting(from, to, id(to), gateway)
}

/// The same where `expected` shall be proven there.
pub(crate) fn permit_expecting(
    from: &str,
    to: &str,
    expected: SpiffeId,
    gateway: SocketAddr,
) -> Permit<TunnelRoute> {
    let destination = Workload::new(WorkloadUid::new(to), to, id(to), vec![gateway.ip()]);
    let OriginalDst(authority) = OriginalDst("10.2.1.10:8080".parse().unwrap());
    let route = TunnelRoute {
        source_uid: WorkloadUid::new(from),
        source: id(from),
        expected: vec![expected],
        gateway,
        authority,
        destination: Arc::new(destination),
        service: None,
    };
    let source = Workload::new(WorkloadUid::new(from), from, id(from), Vec::new());
    match authorize_outbound(&Snapshot::default(), &source, Route::Tunnel(route)).unwrap() {
        OutboundPermit::Tunnel(permit) => permit,
        OutboundPermit::Passthrough(_) => unreachable!("the route is a tunnel's"),
    }
}

async fn listen<S: SvidSource>(
    listener: TcpListener,
    tunnel: Tunnel<S>,
    events: mpsc::UnboundedSender<Event>,
    drain: Arc<Notify>,
) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tokio::spawn(serve(tcp, tunnel.clone(), events.clone(), Arc::clone(&drain)));
    }
}

async fn serve<S: SvidSource>(
    tcp: TcpStream,
    tunnel: Tunnel<S>,
    events: mpsc::UnboundedSender<Event>,
    drain: Arc<Notify>,
) {
    let tell = |event| events.send(event).unwrap_or_default();
    let mut session = match tunnel.terminate(tcp, &id("server")).await {
        Ok(session) => session,
        Err(error) => return tell(Event::Refused(error)),
    };
    tell(Event::Opened { peer: session.peer().clone(), tls: session.tls() });
    loop {
        tokio::select! {
            request = session.next() => match request {
                Some(request) => tell(Event::Request(request)),
                None => break,
            },
            () = drain.notified() => session.drain(),
        }
    }
    let reason = session.end().map_or("none", ztunnel_tunnel::SessionEnd::reason);
    tell(Event::Ended { reason, rejected: session.rejected().map(|(_, count)| count).sum() });
}
