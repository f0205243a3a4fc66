//! The daemon's HTTP endpoints: admin (whoever is on the node's loopback reads, its root also writes), metrics, readiness.

mod answer;
mod pages;
mod request;
mod router;
mod seats;
mod server;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use control::{Certificates, RevocationFiles};
use hyper::{Method, StatusCode};
use model::SharedSnapshot;
use telemetry::{
    Ledgers,
    metrics::{Exporter, limit_hits, limit_used},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tunnel::{Tunnel, Usage};

use self::{request::Request, seats::Rules, server::Door};
use crate::{
    certificates::Source,
    config::Config,
    logging::{DroppedLines, Levels},
    metrics,
    node::Node,
    pods::PodsStatus,
    private_socket::PrivateSocket,
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
const ADMIN: Rules = Rules {
    places: 8,
    // All come from loopback: those for whom there is no place wait.
    per_source: usize::MAX,
    patience: Duration::from_secs(120),
    head: Duration::from_secs(5),
    whole: Duration::from_secs(120),
    once: false,
    trusted: false,
};
/// Any pod may come to these. Each reader may hold another page of metrics, so they are few as well.
const SCRAPE: Rules = Rules {
    places: 8,
    per_source: 4,
    patience: Duration::from_secs(5),
    head: Duration::from_secs(1),
    whole: Duration::from_secs(30),
    once: true,
    trusted: false,
};
const READINESS: Rules = Rules { places: 64, ..SCRAPE };

type Handler = fn(&Admin, &Request) -> Answer;

/// Binds all endpoints, then serves them in the background.
pub(crate) async fn serve(admin: &Arc<Admin>) -> anyhow::Result<()> {
    let endpoints: [(&str, SocketAddr, Rules, Handler); 2] = [
        ("adminAddress", admin.config.admin_address, ADMIN, router::answer),
        ("readinessAddress", admin.config.readiness_address, READINESS, Admin::readiness),
    ];
    for (name, address, rules, handler) in endpoints {
        let door = Door::new(rules);
        tokio::spawn(server::serve_tcp(bind(name, address).await?, door, pages_of(admin, handler)));
    }
    // Not worth a node without a mesh: there are signals, and reads are answered on loopback.
    match PrivateSocket::bind(&admin.config.admin_socket) {
        Ok(socket) => {
            let door = Door::new(Rules { trusted: true, ..ADMIN });
            tokio::spawn(server::serve_unix(socket, door, pages_of(admin, router::answer)));
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
    metrics::on_own_thread(listener, tended, |listener| server::serve_tcp(listener, Door::new(SCRAPE), pages))
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
                // One copy for all who read it.
                Answer::new(StatusCode::OK, "text/plain; version=0.0.4", metrics::page(self))
            }
            _ => Answer::text(StatusCode::NOT_FOUND, "not found; GET /metrics\n"),
        }
    }

    pub(crate) fn record_limits(&self) {
        self.node.record();
        for Usage { limit, used, allowed } in self.node.parts.proxy.usage() {
            limit_used(limit, used, allowed);
        }
        for dns::Usage { limit, used, allowed } in self.node.parts.dns.iter().flat_map(|dns| dns.usage()) {
            limit_used(limit, used, allowed);
        }
        let load = self.tunnel.load();
        limit_hits("streams_per_outbound_tunnel", load.full_outbound);
        limit_hits("streams_per_inbound_tunnel", load.full_inbound);
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
            (&Method::GET, "/healthz/ready") if self.node.is_bereft() => Answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "not ready, pending: taking pods back from a newer daemon that has ended\n",
            ),
            (&Method::GET, "/healthz/ready") => {
                let stale = self.state.stale().map(|stale| format!("{stale}\n")).unwrap_or_default();
                Answer::text(StatusCode::OK, format!("ready\n{stale}"))
            }
            // Whoever answers is alive: enrolment, files and certificates are on this thread's runtime.
            (&Method::GET, "/healthz/live") => Answer::text(StatusCode::OK, "alive\n"),
            (_, "/healthz/ready" | "/healthz/live") => {
                Answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n")
            }
            _ => Answer::text(StatusCode::NOT_FOUND, "not found; GET /healthz/ready or /healthz/live\n"),
        }
    }
}
