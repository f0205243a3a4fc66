//! The gRPC side.

use std::{net::TcpListener, sync::Arc, time::Instant};

use anyhow::Result;
use http::Request as HttpRequest;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::{
    certificates::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
    prost_types::value::Kind,
    tonic::{Request, Response, Status, async_trait, codegen::Service, metadata::MetadataMap},
};
use rustls::ServerConfig;
use tokio::{sync::oneshot, task::JoinSet, time::sleep};
use tokio_rustls::TlsAcceptor;

use super::{Asked, Behaviour, Mood, Shared, lock};

struct Handler {
    shared: Arc<Shared>,
    connection: usize,
}

/// Until `stopped`; what is under way then is cut off.
pub(super) fn run(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    shared: &Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let acceptor = TlsAcceptor::from(tls);
        let mut connections = JoinSet::new();
        let mut count = 0;
        loop {
            tokio::select! {
                _ = &mut stopped => return Ok(()),
                accepted = listener.accept() => {
                    count += 1;
                    let handler = Handler { shared: Arc::clone(shared), connection: count };
                    connections.spawn(speak(accepted?.0, acceptor.clone(), handler));
                }
            }
        }
    })
}

async fn speak(tcp: tokio::net::TcpStream, acceptor: TlsAcceptor, handler: Handler) {
    // Who goes before or in the handshake is no concern of a test that looks at requests.
    let Ok(stream) = acceptor.accept(tcp).await else { return };
    let service = IstioCertificateServiceServer::new(handler);
    let service = service_fn(move |request: HttpRequest<Incoming>| {
        let mut service = service.clone();
        async move { Service::call(&mut service, request).await }
    });
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

#[async_trait]
impl IstioCertificateService for Handler {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let asked = self.asked(&request);
        lock(&self.shared.asked).push(asked.clone());
        let mood = self.shared.mood().clone();
        sleep(mood.delay).await;
        let expected = mood.token.as_ref().map(|token| format!("Bearer {token}"));
        if expected.is_some() && expected != asked.authorization {
            return Err(Status::unauthenticated("the token has expired"));
        }
        match &mood.behaviour {
            Behaviour::Refuse(code) => return Err(Status::new(*code, "not today")),
            Behaviour::Silent => std::future::pending().await,
            _ => {}
        }
        let cert_chain = self.chain(&asked, &mood).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl Handler {
    fn asked(&self, request: &Request<IstioCertificateRequest>) -> Asked {
        let message = request.get_ref();
        let fields = message.metadata.as_ref().map(|metadata| &metadata.fields);
        let named = fields.and_then(|fields| fields.get("ImpersonatedIdentity")?.kind.clone());
        let identity = match named {
            Some(Kind::StringValue(identity)) => identity,
            _ => String::new(),
        };
        Asked {
            identity,
            authorization: header(request.metadata(), "authorization"),
            cluster_id: header(request.metadata(), "clusterid"),
            csr: message.csr.clone(),
            seconds: message.validity_duration,
            at: Instant::now(),
            connection: self.connection,
        }
    }

    fn chain(&self, asked: &Asked, mood: &Mood) -> Result<Vec<String>> {
        match mood.behaviour {
            Behaviour::EmptyChain => return Ok(Vec::new()),
            Behaviour::Garbage => return Ok(vec!["-----BEGIN CERTIFICATE-----\n!\n".to_owned(); 2]),
            Behaviour::Flood => return Ok(vec![self.shared.roots[0].pem().repeat(10_000)]),
            _ => {}
        }
        let root = match mood.behaviour {
            Behaviour::WrongRoot => &self.shared.stranger,
            _ => &self.shared.roots[mood.signing],
        };
        let leaf = root.sign(&asked.csr, &asked.identity, mood)?;
        if mood.behaviour == Behaviour::NoRoot {
            return Ok(vec![leaf]);
        }
        Ok(vec![leaf, mood.announced.iter().map(|number| self.shared.roots[*number].pem()).collect()])
    }
}

fn header(metadata: &MetadataMap, name: &str) -> Option<String> {
    metadata.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}
