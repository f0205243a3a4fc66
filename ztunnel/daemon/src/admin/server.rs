//! A small HTTP/1.1 server over hyper: bounded in connections, in time and in what it reads.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{Admin, Answer, Handler};

const MAX_CONNECTIONS: usize = 64;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// For a whole connection, however many requests it carries.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(120);
/// After a failure of accept(2), such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(listener: TcpListener, admin: Arc<Admin>, handler: Handler) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    // A client that breaks off or stalls is nobody's error.
                    let _ = timeout(CONNECTION_DEADLINE, converse(stream, admin, handler)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an endpoint cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, admin: Arc<Admin>, handler: Handler) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = handler(&admin, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response(answer)) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let Answer { status, content_type, body } = answer;
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
