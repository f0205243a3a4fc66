//! A hand-made client of HBONE.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use http::{Method, Request, StatusCode};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Leaf;

pub(super) const H2: &[&[u8]] = &[b"h2"];

/// One connection, over which a test asks.
pub(super) struct Peer(SendRequest<Bytes>);

/// An open CONNECT stream.
pub(super) struct Stream {
    pub(super) sender: h2::SendStream<Bytes>,
    pub(super) receiver: h2::RecvStream,
}

/// Takes any server for good.
#[derive(Debug)]
struct Credulous;

/// A client of TLS 1.3 and HTTP/2 with this certificate.
pub(super) fn config(leaf: Leaf) -> Arc<ClientConfig> {
    config_of(&TLS13, Some(leaf), H2)
}

pub(super) fn config_of(
    version: &'static SupportedProtocolVersion,
    leaf: Option<Leaf>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(RootCertStore::empty());
    let mut config = match leaf {
        Some(leaf) => builder.with_client_auth_cert(leaf.chain, leaf.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.dangerous().set_certificate_verifier(Arc::new(Credulous));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// As far as TLS. In TLS 1.3 the client is done before the server has seen its certificate.
pub(super) async fn secure(
    gateway: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(gateway).await?;
    secure_over(tcp, config).await
}

pub(super) async fn secure_over(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
    TlsConnector::from(config).connect(name, tcp).await
}

/// Connects and waits for the server's first word. Says where it did so from, and the alert it got instead of one.
pub(super) async fn knock(
    gateway: SocketAddr,
    config: Arc<ClientConfig>,
) -> (SocketAddr, Option<AlertDescription>) {
    let tcp = TcpStream::connect(gateway).await.unwrap();
    let own = tcp.local_addr().unwrap();
    let first = async { secure_over(tcp, config).await?.read_u8().await };
    (own, first.await.err().and_then(|error| alert_in(&error)))
}

fn alert_in(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

impl Peer {
    pub(super) async fn connect(gateway: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let tls = secure(gateway, config).await.expect("TLS");
        let (requests, connection) = handshake(tls).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(requests)
    }

    /// Asks for `authority` and yields the answer.
    pub(super) async fn connect_to(&self, authority: &str) -> Result<Stream, StatusCode> {
        self.ask(Method::CONNECT, authority).await
    }

    pub(super) async fn ask(&self, method: Method, uri: &str) -> Result<Stream, StatusCode> {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let mut requests = self.0.clone().ready().await.expect("the connection goes on");
        let (answer, sender) = requests.send_request(request, false).expect("the connection goes on");
        let (head, receiver) = answer.await.expect("an answer").into_parts();
        if head.status.is_success() { Ok(Stream { sender, receiver }) } else { Err(head.status) }
    }
}

impl Stream {
    /// Says something and yields as many bytes of what comes back.
    pub(super) async fn exchange(&mut self, message: &'static [u8]) -> Result<Vec<u8>, h2::Error> {
        self.sender.send_data(Bytes::from_static(message), false)?;
        let mut answer = Vec::new();
        while answer.len() < message.len() {
            let Some(data) = self.receiver.data().await else { break };
            let data = data?;
            self.receiver.flow_control().release_capacity(data.len())?;
            answer.extend_from_slice(&data);
        }
        Ok(answer)
    }
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
