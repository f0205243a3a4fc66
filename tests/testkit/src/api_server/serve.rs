//! The server: TLS, HTTP/1.1, and what each request is about.

use std::{convert::Infallible, net::TcpListener, sync::Arc, time::Duration};

use http::{Method, StatusCode, request::Parts};
use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::{runtime, sync::oneshot};
use tokio_rustls::TlsAcceptor;

use super::{
    Asked, answer,
    answer::{Body, Refusal},
    list::list,
    path::Target,
    review,
    selector::Selector,
    store::Store,
    watch::{Wanted, watch},
    write,
};

/// As servers do that have no other order.
const WATCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Until `stopped`, with all that was accepted.
pub(super) fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    store: Arc<Mutex<Store>>,
    stopped: oneshot::Receiver<()>,
) {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        tokio::select! {
            () = accept(listener, TlsAcceptor::from(tls), store) => {}
            _ = stopped => {}
        }
    });
    // Dropping the runtime ends the tasks of all connections.
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, store: Arc<Mutex<Store>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, store) = (acceptor.clone(), Arc::clone(&store));
        tokio::spawn(async move {
            let _ = tcp.set_nodelay(true);
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| respond(Arc::clone(&store), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn respond(store: Arc<Mutex<Store>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Some(target) = Target::parse(parts.uri.path()) else {
        let refusal = Refusal::not_found(parts.uri.path());
        return Ok(answer::json(refusal.status, &refusal.object()));
    };
    let fault = {
        let mut store = store.lock();
        store.asked.push(asked(&parts, &target));
        store.faults.take(&target.collection.plural)
    };
    if let Some(fault) = fault {
        let refusal = Refusal::ordered(&fault);
        let mut response = answer::json(refusal.status, &refusal.object());
        if let Some(seconds) = fault.retry_after {
            response.headers_mut().insert("retry-after", seconds.into());
        }
        return Ok(response);
    }
    Ok(decide(&store, &parts, target, &body)
        .unwrap_or_else(|refusal| answer::json(refusal.status, &refusal.object())))
}

fn decide(
    store: &Arc<Mutex<Store>>,
    parts: &Parts,
    target: Target,
    body: &[u8],
) -> Result<Response<Body>, Refusal> {
    let parsed =
        || serde_json::from_slice::<Value>(body).map_err(|error| Refusal::bad_request(error.to_string()));
    if parts.method == Method::GET {
        return read(store, parts, target);
    }
    let mut store = store.lock();
    match parts.method {
        Method::POST if target.collection.plural == "tokenreviews" => {
            let review = review::answer(parsed()?, |token| store.tokens.get(token).cloned());
            Ok(answer::json(StatusCode::CREATED, &review))
        }
        Method::POST if target.collection.plural == "selfsubjectaccessreviews" => {
            let review = review::access(parsed()?, &store.forbidden);
            Ok(answer::json(StatusCode::CREATED, &review))
        }
        Method::POST => {
            let created = write::create(&mut store, &target, parsed()?)?;
            Ok(answer::json(StatusCode::CREATED, &created))
        }
        Method::PUT => Ok(answer::json(StatusCode::OK, &*write::replace(&mut store, &target, parsed()?)?)),
        Method::PATCH => {
            let kind =
                parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            if kind.starts_with("application/json-patch") {
                return Err(Refusal::bad_request("JSON patches are not understood here"));
            }
            let apply = kind.starts_with("application/apply-patch");
            Ok(answer::json(StatusCode::OK, &*write::merge(&mut store, &target, &parsed()?, apply)?))
        }
        Method::DELETE => Ok(answer::json(StatusCode::OK, &write::delete(&mut store, &target)?)),
        _ => Err(Refusal::bad_request("the method is not understood here")),
    }
}

fn read(store: &Arc<Mutex<Store>>, parts: &Parts, target: Target) -> Result<Response<Body>, Refusal> {
    if let Some(name) = &target.name {
        let store = store.lock();
        let object = store.get(&target.collection, target.namespace(), name);
        return Ok(answer::json(StatusCode::OK, object.ok_or_else(|| Refusal::not_found(name))?));
    }
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let parameters = || form_urlencoded::parse(query);
    let parameter = |wanted: &str| {
        parameters().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let selector = Selector::of(parameters());
    if !is_watch(parts) {
        let limit = parameter("limit").parse().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let page = list(&store.lock(), &target, &selector, limit, &parameter("continue"))?;
        return Ok(answer::json(StatusCode::OK, &page));
    }
    let wanted = Wanted {
        version: parameter("resourceVersion").parse().unwrap_or(0),
        bookmarks: parameter("allowWatchBookmarks") == "true",
        initial_events: parameter("sendInitialEvents") == "true",
        timeout: parameter("timeoutSeconds").parse().map_or(WATCH_TIMEOUT, Duration::from_secs),
    };
    Ok(answer::lines(watch(store, target, selector, wanted)))
}

fn is_watch(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).any(|(name, value)| name == "watch" && value != "false")
}

fn asked(parts: &Parts, target: &Target) -> Asked {
    let verb = match parts.method {
        Method::GET if target.name.is_some() => "get",
        Method::GET if is_watch(parts) => "watch",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::DELETE => "delete",
        _ => "patch",
    };
    Asked {
        verb,
        group: target.collection.group().to_owned(),
        resource: target.resource(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
    }
}
