//! A hand-made server of HBONE: what stands at a foreign workload's port 15008.

use std::{
    io::ErrorKind,
    net::Ipv6Addr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason,
    server::{Builder, SendResponse},
};
use http::{Request, Response, StatusCode};
use rustls::{ServerConfig, SupportedProtocolVersion, crypto::aws_lc_rs, version::TLS13};
use testkit::Place;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use super::{Leaf, client::H2};

/// What is done with a CONNECT: the port it asks for says what.
pub(super) mod ports {
    /// It is opened and echoes.
    pub(crate) const ECHO: u16 = 8200;
    /// The status is this plus the port.
    pub(crate) const STATUS: u16 = 8000;
    /// RST_STREAM(INTERNAL_ERROR) and no answer.
    pub(crate) const RESET: u16 = 8601;
    /// Nothing.
    pub(crate) const SILENCE: u16 = 8602;
    /// Opened; the first data is answered with [`super::LAST_WORDS`], the second with RST_STREAM(CANCEL).
    pub(crate) const RESET_LATER: u16 = 8603;
    /// The same, but with the second the TCP connection ends without any farewell.
    pub(crate) const CUT: u16 = 8604;
    /// It is opened and echoes, and GOAWAY says that no other will be.
    pub(crate) const LAST: u16 = 8605;
}

pub(super) const LAST_WORDS: &[u8] = b"half of what there was to s";

/// Serves each connection as it is told, until dropped.
pub(super) struct Gateway {
    accepted: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Service = Pin<Box<dyn Future<Output = ()>>>;

impl Gateway {
    /// Listens inside `place`, over both families. `serve` gets each connection and its number, from 1.
    pub(super) fn start<F: Future<Output = ()> + 'static>(
        place: &Place,
        serve: impl Fn(TcpStream, usize) -> F + Send + 'static,
    ) -> Self {
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let count = Arc::clone(&accepted);
        let thread = place.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listen().await;
                ready.send(()).unwrap();
                let boxed = |tcp, number| -> Service { Box::pin(serve(tcp, number)) };
                tokio::select! {
                    () = accept(listener, &count, boxed) => {}
                    _ = stopped => {}
                }
            });
        });
        listening.recv().expect("the gateway listens");
        Self { accepted, stop: Some(stop), thread: Some(thread) }
    }

    /// TCP connections so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A program that another test starts just now may hold the listener before this for a moment, between fork and exec.
async fn listen() -> TcpListener {
    loop {
        match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 15008)).await {
            Ok(listener) => return listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse => sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("listening: {error}"),
        }
    }
}

async fn accept(listener: TcpListener, count: &AtomicUsize, serve: impl Fn(TcpStream, usize) -> Service) {
    let services = tokio::task::LocalSet::new();
    services
        .run_until(async {
            while let Ok((tcp, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::task::spawn_local(serve(tcp, number));
            }
        })
        .await;
}

/// A server of TLS 1.3 and HTTP/2 with this certificate.
pub(super) fn config(leaf: Leaf) -> Arc<ServerConfig> {
    config_of(&TLS13, leaf, H2)
}

pub(super) fn config_of(
    version: &'static SupportedProtocolVersion,
    leaf: Leaf,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain, leaf.key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// TLS, then HTTP/2 with at most so many streams at once, until the peer or one of [`ports`] ends it.
pub(super) async fn speak(tcp: TcpStream, config: Arc<ServerConfig>, streams: u32) {
    let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
    let mut builder = Builder::new();
    builder.max_concurrent_streams(streams);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(tls).await else { return };
    let (cut, mut to_be_cut) = tokio::sync::mpsc::channel(1);
    loop {
        tokio::select! {
            request = connection.accept() => {
                let Some(Ok((request, respond))) = request else { return };
                let port = request.uri().authority().and_then(|authority| authority.port_u16());
                if port == Some(ports::LAST) {
                    connection.graceful_shutdown();
                }
                tokio::task::spawn_local(answer(port.unwrap_or(0), request, respond, cut.clone()));
            }
            _ = to_be_cut.recv() => return,
        }
    }
}

async fn answer(
    port: u16,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    cut: tokio::sync::mpsc::Sender<()>,
) {
    match port {
        ports::RESET => respond.send_reset(Reason::INTERNAL_ERROR),
        ports::SILENCE => std::future::pending().await,
        ports::ECHO | ports::LAST | ports::RESET_LATER | ports::CUT => {
            let mut receiver = request.into_body();
            let mut sender = respond.send_response(Response::new(()), false).unwrap();
            if matches!(port, ports::ECHO | ports::LAST) {
                // It fails if the peer breaks off.
                let _ = echo(&mut receiver, &mut sender).await;
                return;
            }
            receiver.data().await;
            sender.send_data(Bytes::from_static(LAST_WORDS), false).unwrap();
            receiver.data().await;
            match port {
                ports::RESET_LATER => sender.send_reset(Reason::CANCEL),
                _ => {
                    cut.send(()).await.unwrap();
                    // Not even RST_STREAM.
                    std::future::pending::<()>().await;
                }
            }
        }
        _ => {
            let status = StatusCode::from_u16(port - ports::STATUS).unwrap();
            respond.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
        }
    }
}

async fn echo(receiver: &mut h2::RecvStream, sender: &mut h2::SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(data) = receiver.data().await {
        let data = data?;
        receiver.flow_control().release_capacity(data.len())?;
        sender.send_data(data, false)?;
    }
    sender.send_data(Bytes::new(), true)
}
