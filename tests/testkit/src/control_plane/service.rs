//! The server: TLS, HTTP/2, and the stream of each client.

use std::{convert::Infallible, net::TcpListener, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream::unfold};
use http_body_util::{BodyExt, StreamBody};
use hyper::{Request, Response, body::Frame, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proto::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    tonic::{self, Status, Streaming, body::Body, codegen::Service as _},
};
use rustls::ServerConfig;
use tokio::{
    runtime,
    sync::{mpsc::unbounded_channel, oneshot},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use super::{Book, Conduct};

/// Until `stopped`, with all that was accepted.
pub(super) fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    book: Arc<Mutex<Book>>,
    stopped: oneshot::Receiver<()>,
) {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        tokio::select! {
            () = accept(listener, TlsAcceptor::from(tls), book) => {}
            _ = stopped => {}
        }
    });
    // Dropping the runtime ends the tasks of all connections.
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, book: Arc<Mutex<Book>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, discovery) = (acceptor.clone(), Discovery(Arc::clone(&book)));
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| answer(discovery.clone(), request));
            let builder = http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn answer(discovery: Discovery, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let conduct = discovery.0.lock().conduct;
    if conduct == Conduct::HalfMessage {
        return Ok(half_a_message());
    }
    let answer = AggregatedDiscoveryServiceServer::new(discovery)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
        .call(request)
        .await?;
    Ok(if conduct == Conduct::Slow { answer.map(trickling) } else { answer })
}

/// At most this many bytes in each millisecond.
const TRICKLE: usize = 32;

fn trickling(body: Body) -> Body {
    let pieces = unfold((body, Bytes::new()), |(mut body, mut rest)| async move {
        if rest.is_empty() {
            let frame = match body.frame().await? {
                Ok(frame) => frame,
                Err(error) => return Some((Err(error), (body, rest))),
            };
            match frame.into_data() {
                Ok(data) => rest = data,
                Err(trailers) => return Some((Ok(trailers), (body, rest))),
            }
        }
        sleep(Duration::from_millis(1)).await;
        let piece = rest.split_to(rest.len().min(TRICKLE));
        Some((Ok(Frame::data(piece)), (body, rest)))
    });
    Body::new(StreamBody::new(pieces))
}

/// The frame says a hundred bytes; ten follow, then the stream breaks.
fn half_a_message() -> Response<Body> {
    let begun = [&[0, 0, 0, 0, 100][..], &[0x0a; 10]].concat();
    let frames = [Ok(Frame::data(Bytes::from(begun))), Err(Status::internal("broken off"))];
    let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

#[derive(Clone)]
struct Discovery(Arc<Mutex<Book>>);

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let book = Arc::clone(&self.0);
        let (outgoing, responses) = unbounded_channel();
        let number = {
            let mut book = book.lock();
            let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
            let expected = book.token.as_ref().map(|token| format!("Bearer {token}"));
            if expected.is_some() && given != expected.as_deref() {
                return Err(Status::unauthenticated("the token has expired"));
            }
            if let Conduct::Refuse(code) = book.conduct {
                return Err(Status::new(code, "refused"));
            }
            book.open(outgoing)
        };
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                book.lock().receive(number, request);
            }
            book.lock().close(number);
        });
        let responses = unfold(responses, |mut responses| async move {
            responses.recv().await.map(|response| (response, responses))
        });
        Ok(tonic::Response::new(Box::pin(responses)))
    }
}
