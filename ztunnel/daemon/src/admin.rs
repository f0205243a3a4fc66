//! The daemon's HTTP endpoints: admin (whoever is on the node's loopback reads, its root also writes), metrics, readiness.

mod answer;
mod pages;
mod request;
mod router;
mod server;
mod unix;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use control::{Certificates, RevocationFiles};
use hyper::{Method, StatusCode};
use model::SharedSnapshot;
use telemetry::{
    Ledgers,
    metrics::{Exporter, limit_used},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tunnel::{Tunnel, Usage};

use self::{request::Request, server::Door, unix::AdminSocket};
use crate::{
    certificates::Source,
    config::Config,
    logging::{DroppedLines, Levels},
    metrics,
    node::Node,
    pods::PodsStatus,
    state::StateStatus,
};

pub(crate) use answer::Answer;

/// All that the endpoints tell of, and what they may change.
pub(crate) struct Admin {
    pub(crate) config: Config,
    pub(crate) snapshot: Arc<SharedSnapshot>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) authority: Source,
    pub(crate) tunnel: Tunnel<Certificates>,
    pub(crate) node: Arc<Node>,
    pub(crate) exporter: Exporter,
    pub(crate) dropped: DroppedLines,
    pub(crate) levels: Levels,
    pub(crate) state: StateStatus,
    pub(crate) pods: PodsStatus,
    pub(crate) revocation: RevocationFiles,
    /// Fired when every pod that could be enrolled is, and the programs are attached.
    pub(crate) ready: CancellationToken,
    /// To be fired by whoever wants the daemon to drain and end.
    pub(crate) quit: CancellationToken,
}

/// A page may cost the processor something: few are made at a time, and the socket's do not wait for those of TCP.
const ADMIN_PLACES: usize = 8;
const SCRAPE_PLACES: usize = 64;

type Handler = fn(&Admin, &Request) -> Answer;

/// Binds all endpoints, then serves them in the background.
pub(crate) async fn serve(admin: &Arc<Admin>) -> anyhow::Result<()> {
    let endpoints: [(&str, SocketAddr, usize, Handler); 2] = [
        ("adminAddress", admin.config.admin_address, ADMIN_PLACES, router::answer),
        ("readinessAddress", admin.config.readiness_address, SCRAPE_PLACES, Admin::readiness),
    ];
    for (name, address, places, handler) in endpoints {
        let door = Door::new(places, false);
        tokio::spawn(server::serve_tcp(bind(name, address).await?, door, pages_of(admin, handler)));
    }
    // Not worth a node without a mesh: there are signals, and reads are answered on loopback.
    match AdminSocket::bind(&admin.config.admin_socket) {
        Ok(socket) => {
            tokio::spawn(socket.serve(Door::new(ADMIN_PLACES, true), pages_of(admin, router::answer)));
        }
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "adminSocket: nothing can be changed while running"
            );
        }
    }
    let listener = bind("metricsAddress", admin.config.metrics_address).await?.into_std()?;
    let pages = pages_of(admin, Admin::metrics);
    let tended = (admin.exporter.clone(), Arc::clone(&admin.ledgers));
    metrics::on_own_thread(listener, tended, |listener| {
        server::serve_tcp(listener, Door::new(SCRAPE_PLACES, false), pages)
    })
}

async fn bind(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{name}: listening on {address}"))
}

fn pages_of(admin: &Arc<Admin>, handler: Handler) -> Arc<impl server::Pages + use<>> {
    let admin = Arc::clone(admin);
    Arc::new(move |request: &Request| handler(&admin, request))
}

impl Admin {
    fn metrics(&self, request: &Request) -> Answer {
        match (&request.method, request.path.as_str()) {
            (&Method::GET, "/metrics" | "/stats/prometheus") => {
                Answer::new(StatusCode::OK, "text/plain; version=0.0.4", metrics::page(self).as_bytes())
            }
            _ => Answer::text(StatusCode::NOT_FOUND, "not found; GET /metrics\n"),
        }
    }

    pub(crate) fn record_limits(&self) {
        for Usage { limit, used, allowed } in self.node.parts.proxy.usage() {
            limit_used(limit, used, allowed);
        }
        let (open, allowed) = redirect::descriptors();
        limit_used("descriptors", open, allowed);
    }

    fn readiness(&self, request: &Request) -> Answer {
        match (&request.method, request.path.as_str()) {
            (&Method::GET, "/healthz/ready") if self.node.drain.is_cancelled() => {
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "not ready, draining\n")
            }
            (&Method::GET, "/healthz/ready") if !self.ready.is_cancelled() => {
                let pending = self.state.pending().unwrap_or_else(|| "enrolment".to_owned());
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("not ready, pending: {pending}\n"))
            }
            (&Method::GET, "/healthz/ready") => {
                let stale = self.state.stale().map(|stale| format!("{stale}\n")).unwrap_or_default();
                Answer::text(StatusCode::OK, format!("ready\n{stale}"))
            }
            _ => Answer::text(StatusCode::NOT_FOUND, "not found; GET /healthz/ready\n"),
        }
    }
}
