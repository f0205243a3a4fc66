//! The server that daemons reach: TLS 1.3 with a certificate of our own CA, HTTP/2, and two gRPC services.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::{
    certificates::istio_certificate_service_server::{
        IstioCertificateService, IstioCertificateServiceServer,
    },
    discovery::aggregated_discovery_service_server::SERVICE_NAME,
    tonic::{Status, body::Body, codegen::Service as _, server::NamedService},
};
use rustls::{ServerConfig, crypto::aws_lc_rs, version::TLS13};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{
    ads::{self, Discovery},
    ca::{CertificateService, CurrentCa, Held, MAX_REQUEST},
    settings::Settings,
};

mod crowd;

pub(crate) use crowd::{Crowd, Guest};

const CONNECTIONS: usize = 12_000;
/// Until a request with a daemon's token, the handshake not counted.
const PROOF: Duration = Duration::from_secs(10);
/// Of each connection, for what it sends: requests are small, but for the versions with which a daemon comes back.
const WINDOW: u32 = 64 << 10;
/// A daemon asks for its state on one connection, and for certificates on another.
const STREAMS: u32 = 16;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A daemon that vanished is noticed.
const PING: Duration = Duration::from_secs(30);
/// Of a connection that ends.
const GRACE: Duration = Duration::from_secs(5);
/// The longest life of the server's own certificate.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What is served.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) discovery: Discovery,
    pub(crate) certificates: CertificateService,
}

/// Until `stopping`; then connections end properly.
pub(crate) async fn serve(
    listener: TcpListener,
    services: Services,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    stopping: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (connections, crowd) = (TaskTracker::new(), Crowd::default());
    let mut stopped = stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopping| *stopping) => break,
        };
        let Ok((tcp, from)) = accepted else {
            // Out of descriptors, most likely.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (Ok(place), Some(config)) = (Arc::clone(&places).try_acquire_owned(), tls.borrow().clone())
        else {
            continue;
        };
        let (services, stopping) = (services.clone(), stopping.clone());
        let guest = crowd.admit(from.ip().to_canonical());
        connections.spawn(async move {
            tokio::select! {
                () = connection(tcp, config, services, stopping, guest.clone()) => {}
                () = guest.is_cut() => {}
            }
            // It is a stranger no longer, whoever it was.
            guest.cut();
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    let _ = timeout(GRACE, connections.wait()).await;
}

async fn connection(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    services: Services,
    mut stopping: watch::Receiver<bool>,
    guest: Guest,
) {
    let _ = tcp.set_nodelay(true);
    let Ok(Ok(stream)) = timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(tcp)).await else { return };
    let known = guest.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(known.clone());
        answer(services.clone(), request)
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = &mut serving => return,
        () = unproven(&guest) => return,
        _ = stopping.wait_for(|stopping| *stopping) => serving.as_mut().graceful_shutdown(),
    }
    let _ = timeout(GRACE, serving).await;
}

async fn unproven(guest: &Guest) {
    sleep(PROOF).await;
    if guest.is_proven() {
        std::future::pending::<()>().await;
    }
}

async fn answer(services: Services, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let service =
        request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
    if service == SERVICE_NAME {
        Ok(ads::answer(&services.discovery, request).await)
    } else if service == IstioCertificateServiceServer::<CertificateService>::NAME {
        certificates(services.certificates).call(request).await
    } else {
        Ok(Status::unimplemented("neither state nor certificates").into_http())
    }
}

fn certificates<T: IstioCertificateService>(service: T) -> IstioCertificateServiceServer<T> {
    // It is read before anybody looks at the token.
    IstioCertificateServiceServer::new(service).max_decoding_message_size(MAX_REQUEST)
}

/// Bound before anything else is done.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("binding {address}"))
}

/// Keeps a certificate for the server itself, of whatever signs now. Until the process ends.
pub(crate) async fn keep_certificate(
    settings: Arc<Settings>,
    mut ca: CurrentCa,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
) {
    loop {
        let held = ca.borrow_and_update().clone();
        if let Some(held) = held {
            match certificate(&settings, &held) {
                Ok(config) => drop(tls.send_replace(Some(Arc::new(config)))),
                Err(error) => tracing::error!("the controller has no certificate of its own: {error:#}"),
            }
        }
        tokio::select! {
            changed = ca.changed() => if changed.is_err() { return },
            () = sleep(LIFETIME / 2) => {}
        }
    }
}

fn certificate(settings: &Settings, held: &Held) -> anyhow::Result<ServerConfig> {
    let certificate = held.ca.server_certificate(&settings.names(), LIFETIME, SystemTime::now())?;
    let key = certificate.key.expose().clone_key();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificate.chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
