//! Against a server of real TLS that says what it was sent.

use std::{collections::BTreeMap, convert::Infallible, fs, net::SocketAddr, path::Path};

use http::HeaderMap;
use hyper::{server, service::service_fn};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A root, and a server with a certificate of it for `localhost`.
struct Server {
    address: SocketAddr,
    root_pem: String,
    seen: mpsc::UnboundedReceiver<HeaderMap>,
}

async fn server() -> Server {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = parameters.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(parameters, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    told.send(request.headers().clone()).unwrap();
                    async { Ok::<_, Infallible>(Response::new(Body::empty())) }
                });
                let builder = server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    Server { address, root_pem, seen }
}

fn settings(server: SocketAddr, roots: &str, token_file: Option<&Path>) -> ChannelSettings {
    ChannelSettings {
        address: format!("localhost:{}", server.port()).parse().unwrap(),
        roots: roots.parse().unwrap(),
        token_file: token_file.map(Into::into),
        cluster_id: "Kubernetes".to_owned(),
        headers: RequestHeaders::default(),
        connect_deadline: Duration::from_secs(10),
    }
}

async fn ask(connection: &mut Connection) -> Result<Response<Incoming>, CallError> {
    std::future::poll_fn(|context| connection.poll_ready(context)).await?;
    connection.call(Request::post("/a.Service/Call").body(Body::empty()).unwrap()).await
}

/// The kubelet replaces the token while the connection stands.
#[tokio::test]
async fn each_request_has_the_token_of_its_time() {
    let mut server = server().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut connection =
        settings(server.address, &server.root_pem, Some(file.path())).connect().await.unwrap();
    for token in ["first", "second"] {
        fs::write(file.path(), format!("{token}\n")).unwrap();
        ask(&mut connection).await.unwrap();
        let seen = server.seen.recv().await.unwrap();
        assert_eq!(seen["authorization"], format!("Bearer {token}"));
        assert_eq!(seen["clusterid"], "Kubernetes");
    }
    let added = [("x-tenant".to_owned(), "of mine".to_owned())];
    let with_header = ChannelSettings {
        headers: BTreeMap::from(added).try_into().unwrap(),
        ..settings(server.address, &server.root_pem, Some(file.path()))
    };
    ask(&mut with_header.connect().await.unwrap()).await.unwrap();
    let seen = server.seen.recv().await.unwrap();
    assert_eq!(seen["x-tenant"], "of mine");
    assert_eq!(seen["authorization"], "Bearer second");
    fs::write(file.path(), "two words").unwrap();
    let error = ask(&mut connection).await.unwrap_err().to_string();
    assert!(error.contains("holds no token") && !error.contains("words"), "{error}");
    let mut anonymous = settings(server.address, &server.root_pem, None).connect().await.unwrap();
    ask(&mut anonymous).await.unwrap();
    let seen = server.seen.recv().await.unwrap();
    assert!(!seen.contains_key("authorization") && !seen.contains_key("clusterid"), "{seen:?}");
}

/// Roots rotate: the file of the next connection's time decides, and only roots in it vouch for anybody.
#[tokio::test]
async fn each_connection_trusts_the_roots_of_its_time() {
    let (right, other) = (server().await, server().await);
    let file = tempfile::NamedTempFile::new().unwrap();
    let settings = settings(right.address, file.path().to_str().unwrap(), None);
    assert_eq!(settings.connect().await.unwrap_err().reason(), "roots", "an empty file is no trust");
    fs::write(file.path(), &other.root_pem).unwrap();
    assert_eq!(settings.connect().await.unwrap_err().reason(), "tls");
    fs::write(file.path(), format!("{}{}", other.root_pem, right.root_pem)).unwrap();
    settings.connect().await.unwrap();
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = server().await;
    let mut settings = settings(server.address, &server.root_pem, None);
    settings.address = server.address.to_string().parse().unwrap();
    assert_eq!(settings.connect().await.unwrap_err().reason(), "tls");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_longer_than_allowed() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings(silent.local_addr().unwrap(), &server().await.root_pem, None);
    assert_eq!(settings.connect().await.unwrap_err().reason(), "deadline");
}

#[test]
fn an_address_has_a_host_a_port_and_tls() {
    for (text, host, port) in [
        ("istiod.istio-system.svc:15012", "istiod.istio-system.svc", 15012),
        ("https://localhost:1", "localhost", 1),
        ("https://[fd00::1]:15012", "fd00::1", 15012),
    ] {
        let address: ControlPlaneAddress = text.parse().unwrap();
        assert_eq!((address.host(), address.port()), (host, port));
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    for text in ["", "istiod", "istiod:0", "http://istiod:15012", "me@istiod:15012", "istiod:15012/path"] {
        assert!(text.parse::<ControlPlaneAddress>().is_err(), "{text}");
    }
}
