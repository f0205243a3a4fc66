//! The daemon's HTTP endpoints: admin (reads only, on loopback), metrics, readiness.

mod dump;
mod server;

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use anyhow::Context;
use control::{Certificates, FileStatus};
use hyper::{Method, StatusCode};
use model::SharedSnapshot;
use telemetry::{
    Ledgers,
    metrics::{Exporter, limit_used},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tunnel::Usage;

use crate::{
    certificates, config::Config, files, logging::DroppedLines, node::Node, state::StateStatus, verdicts,
};

/// All that the endpoints tell of.
pub(crate) struct Admin {
    pub(crate) config: Config,
    pub(crate) snapshot: Arc<SharedSnapshot>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) node: Arc<Node>,
    pub(crate) exporter: Exporter,
    pub(crate) dropped: DroppedLines,
    pub(crate) state: StateStatus,
    pub(crate) pods: watch::Receiver<FileStatus>,
    /// Fired when every pod that could be enrolled is, and the programs are attached.
    pub(crate) ready: CancellationToken,
}

/// An answer, before HTTP.
pub(crate) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

type Handler = fn(&Admin, &Method, &str) -> Answer;

/// Binds all three endpoints, then serves them in the background.
pub(crate) async fn serve(admin: &Arc<Admin>) -> anyhow::Result<()> {
    let endpoints: [(&str, SocketAddr, Handler); 3] = [
        ("adminAddress", admin.config.admin_address, Admin::admin),
        ("metricsAddress", admin.config.metrics_address, Admin::metrics),
        ("readinessAddress", admin.config.readiness_address, Admin::readiness),
    ];
    for (name, address, handler) in endpoints {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("{name}: listening on {address}"))?;
        tokio::spawn(server::serve(listener, Arc::clone(admin), handler));
    }
    Ok(())
}

const INDEX: &str = "\
ztunnel admin endpoint

/connections   open connections: path, both identities, bytes, age
/plaintext     who sends plaintext to whom, where mutual TLS is possible
/pods          this node's pods: enrolled or not, and why not
/certificates  certificates by identity: state, serial, validity
/state         where the mesh comes from, and the watched files: what is in force, what is wrong
/verdicts      what the eBPF programs decided, counted
/config_dump   all of the above, with the mesh state and the configuration
";

impl Admin {
    fn admin(&self, method: &Method, path: &str) -> Answer {
        if method != Method::GET {
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "this endpoint only reads: use GET\n");
        }
        match path {
            "/" => Answer::text(StatusCode::OK, INDEX),
            "/connections" => Answer::json(&self.connections()),
            "/pods" => Answer::json(&self.node.status()),
            "/plaintext" => Answer::json(&self.plaintext()),
            "/certificates" => Answer::json(&self.certificates.statuses()),
            "/state" => Answer::json(&self.files()),
            "/verdicts" => Answer::json(&self.verdicts()),
            "/config_dump" => Answer::json(&self.config_dump()),
            _ => Answer::text(StatusCode::NOT_FOUND, "not found; / lists what there is\n"),
        }
    }

    fn metrics(&self, method: &Method, path: &str) -> Answer {
        match (method, path) {
            (&Method::GET, "/metrics" | "/stats/prometheus") => {
                verdicts::record(self.node.parts.redirector.verdicts());
                self.dropped.record();
                self.record_limits();
                files::record("pods", &self.pods.borrow());
                let beside = self.state.record();
                let mut body = self.exporter.render(&self.ledgers);
                body.push_str(&certificates::lifetimes(&self.certificates.statuses(), SystemTime::now()));
                body.push_str(&beside);
                body.push_str(&verdicts::older_connections(&self.node.older_connections()));
                Answer { status: StatusCode::OK, content_type: "text/plain; version=0.0.4", body }
            }
            _ => Answer::text(StatusCode::NOT_FOUND, "not found; GET /metrics\n"),
        }
    }

    fn record_limits(&self) {
        for Usage { limit, used, allowed } in self.node.parts.proxy.usage() {
            limit_used(limit, used, allowed);
        }
        let (open, allowed) = redirect::descriptors();
        limit_used("descriptors", open, allowed);
    }

    fn readiness(&self, method: &Method, path: &str) -> Answer {
        match (method, path) {
            (&Method::GET, "/healthz/ready") if self.node.drain.is_cancelled() => {
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "not ready, draining\n")
            }
            (&Method::GET, "/healthz/ready") if !self.ready.is_cancelled() => {
                let pending = self.state.pending().unwrap_or_else(|| "enrolment".to_owned());
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, &format!("not ready, pending: {pending}\n"))
            }
            (&Method::GET, "/healthz/ready") => {
                let stale = self.state.stale().map(|stale| format!("{stale}\n")).unwrap_or_default();
                Answer::text(StatusCode::OK, &format!("ready\n{stale}"))
            }
            _ => Answer::text(StatusCode::NOT_FOUND, "not found; GET /healthz/ready\n"),
        }
    }
}

impl Answer {
    fn text(status: StatusCode, body: &str) -> Self {
        Self { status, content_type: "text/plain", body: body.to_owned() }
    }

    fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(body) => Self { status: StatusCode::OK, content_type: "application/json", body },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
}
