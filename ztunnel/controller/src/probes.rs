//! Readiness and metrics: what the kubelet and Prometheus ask.

use std::{
    convert::Infallible,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    book::{Book, Kind},
    ca::CurrentCa,
    inventory::Inventory,
};

/// Anybody can come here: many, and each for a moment, so that those who say nothing keep no prober out for long.
const CONNECTIONS: usize = 1_024;
const DEADLINE: Duration = Duration::from_secs(2);

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) streams: AtomicU64,
    pub(crate) responses: AtomicU64,
    pub(crate) resources: AtomicU64,
    pub(crate) refused_responses: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) refused_tokens: AtomicU64,
    pub(crate) refused_identities: AtomicU64,
    pub(crate) certificates: AtomicU64,
    pub(crate) watch_failures: AtomicU64,
}

/// What both pages tell of.
#[derive(Clone)]
pub(crate) struct Probes {
    pub(crate) counters: Arc<Counters>,
    pub(crate) book: Arc<Book>,
    pub(crate) inventory: Arc<RwLock<Inventory>>,
    pub(crate) ca: CurrentCa,
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Until the process ends.
pub(crate) async fn serve(listener: TcpListener, probes: Probes) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let probes = probes.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(probes.clone(), request));
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(tcp), service);
            let _ = timeout(DEADLINE, serving).await;
            drop(place);
        });
    }
}

async fn answer(probes: Probes, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/healthz/ready" => probes.readiness(),
        "/healthz/live" => (StatusCode::OK, "alive\n".to_owned()),
        "/metrics" => (StatusCode::OK, probes.metrics()),
        _ => (StatusCode::NOT_FOUND, "/healthz/ready, /healthz/live, /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

impl Probes {
    /// Ready is who knows the whole cluster and can sign.
    fn readiness(&self) -> (StatusCode, String) {
        let missing: Vec<&str> = self.inventory.read().missing().iter().map(|sort| sort.name()).collect();
        let mut waiting: Vec<String> =
            missing.iter().map(|name| format!("the first list of {name}")).collect();
        if self.ca.borrow().is_none() {
            waiting.push("the CA's Secret".to_owned());
        }
        if *self.stopping.borrow() {
            waiting.push("the end: it is stopping".to_owned());
        }
        if waiting.is_empty() {
            (StatusCode::OK, "ready\n".to_owned())
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", waiting.join(", ")))
        }
    }

    fn metrics(&self) -> String {
        let Counters { streams, responses, resources, refused_responses, .. } = &*self.counters;
        let Counters { refused_tokens, refused_identities, certificates, watch_failures, .. } =
            &*self.counters;
        let Counters { unanswered, .. } = &*self.counters;
        let left = self.ca.borrow().as_ref().map_or(0, super::ca::Held::seconds_left);
        let stage = self.ca.borrow().as_ref().map_or(0, super::ca::Held::stage);
        let count = |kind| u64::try_from(self.book.count(kind)).unwrap_or(u64::MAX);
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let families = [
            ("streams", "gauge", "Streams of state that are open: one for each daemon.", value(streams)),
            ("responses_total", "counter", "Responses with state that were sent.", value(responses)),
            (
                "resources_sent_total",
                "counter",
                "Resources, and names of removed ones, in them.",
                value(resources),
            ),
            (
                "refused_responses_total",
                "counter",
                "Responses that a daemon refused.",
                value(refused_responses),
            ),
            (
                "unanswered_responses_total",
                "counter",
                "Connections that were cut since a daemon did not answer what it was told.",
                value(unanswered),
            ),
            (
                "refused_tokens_total",
                "counter",
                "Requests without the good token of a daemon.",
                value(refused_tokens),
            ),
            ("certificates_total", "counter", "Certificates that were signed.", value(certificates)),
            (
                "refused_certificates_total",
                "counter",
                "Certificates that were refused: the workload is not on the daemon's node.",
                value(refused_identities),
            ),
            (
                "watch_failures_total",
                "counter",
                "Failures of watches of the API server.",
                value(watch_failures),
            ),
            ("addresses", "gauge", "Workloads and services that are served.", count(Kind::Address)),
            ("authorizations", "gauge", "Policies that are served.", count(Kind::Authorization)),
            ("leader", "gauge", "1 if this replica writes.", u64::from(*self.leads.borrow())),
            ("ca_seconds_left", "gauge", "Until the certificate that signs expires.", left),
            (
                "root_rotation_stage",
                "gauge",
                "Of a rotation of the root: 0 none, 1 prepared, 2 switched, 3 returned.",
                stage,
            ),
        ];
        let mut page = String::new();
        for (name, kind, help, value) in families {
            let name = format!("ztunnel_controller_{name}");
            let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
        page
    }
}
