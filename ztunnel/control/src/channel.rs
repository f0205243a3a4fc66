//! One connection to a control plane: TCP, TLS and HTTP/2, and who we are on each request.
//!
//! Receives [`ChannelSettings`]; hands on a [`Connection`], over which the clients of `proto` speak. Roots are read anew
//! for each connection and the token for each request, since both rotate. Whoever holds a connection that has ended makes
//! another; nothing is done behind their back.

use std::{
    error::Error,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response,
    header::AUTHORIZATION,
    uri::{Authority, Scheme, Uri},
};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::tonic::{body::Body, codegen::Service};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

mod address;
mod headers;
mod roots;
#[cfg(test)]
mod tests;
mod token;

pub use address::{ControlPlaneAddress, NotAnAddress};
pub use headers::{NoHeader, RequestHeaders};
pub use roots::{RootCertificates, RootsError};

/// A control plane that is gone without a word is noticed after the interval and the patience. gRPC servers end the
/// connection of who asks more often than they like, and of who asks while no request is under way: istiod takes one PING
/// in 15 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(10);
/// A whole mesh comes over one stream.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;
const HEADER_LIST: u32 = 16 << 10;

/// How a control plane is reached.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    pub address: ControlPlaneAddress,
    pub roots: RootCertificates,
    /// Says who we are. Without it requests go without credentials.
    pub token_file: Option<PathBuf>,
    pub cluster_id: String,
    /// Go along with each request.
    pub headers: RequestHeaders,
    /// For TCP, TLS and HTTP/2 together.
    pub connect_deadline: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("connecting to {address}: {source}")]
    Connect { address: ControlPlaneAddress, source: io::Error },
    #[error("TLS with {address}: {source}")]
    Tls { address: ControlPlaneAddress, source: io::Error },
    #[error("HTTP/2 with {address}: {source}")]
    Http2 { address: ControlPlaneAddress, source: hyper::Error },
    #[error("{address} did not answer within {within:?}")]
    Deadline { address: ControlPlaneAddress, within: Duration },
}

impl ChannelError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Roots(_) => "roots",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Http2 { .. } => "http2",
            Self::Deadline { .. } => "deadline",
        }
    }
}

/// Goes when all its clones and their requests are gone, or the control plane is.
#[derive(Clone)]
pub struct Connection {
    settings: Arc<ChannelSettings>,
    sender: http2::SendRequest<Body>,
}

impl Connection {
    /// Whether no request can go over it any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl ChannelSettings {
    pub async fn connect(&self) -> Result<Connection, ChannelError> {
        let (address, within) = (self.address.clone(), self.connect_deadline);
        timeout(within, self.handshakes()).await.unwrap_or(Err(ChannelError::Deadline { address, within }))
    }

    async fn handshakes(&self) -> Result<Connection, ChannelError> {
        let address = &self.address;
        let tls = self.tls().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_PATIENCE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| ChannelError::Http2 { address: address.clone(), source })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the control plane has ended");
            }
        });
        Ok(Connection { settings: Arc::new(self.clone()), sender })
    }

    async fn tls(&self) -> Result<TlsStream<TcpStream>, ChannelError> {
        let address = &self.address;
        let roots = self.roots.load().await?;
        let unreachable = |source| ChannelError::Connect { address: address.clone(), source };
        let tcp = TcpStream::connect((address.host(), address.port())).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let failed = |source| ChannelError::Tls { address: address.clone(), source };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(io::Error::other(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config)).connect(address.server_name(), tcp).await.map_err(failed)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Incoming>, CallError>> + Send>>;
type CallError = Box<dyn Error + Send + Sync>;

/// What the clients of `proto` speak over.
impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = CallError;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.sender.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        let (settings, mut sender) = (Arc::clone(&self.settings), self.sender.clone());
        Box::pin(async move {
            *request.uri_mut() = absolute(request.uri(), settings.address.authority())?;
            settings.headers.add_to(request.headers_mut());
            if let Some(file) = &settings.token_file {
                let headers = request.headers_mut();
                headers.insert(AUTHORIZATION, token::bearer(file).await?);
                headers.insert("clusterid", HeaderValue::try_from(&settings.cluster_id)?);
            }
            Ok(sender.send_request(request).await?)
        })
    }
}

fn absolute(uri: &Uri, authority: &Authority) -> Result<Uri, http::uri::InvalidUriParts> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(authority.clone());
    Uri::from_parts(parts)
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.settings.address).finish_non_exhaustive()
    }
}
