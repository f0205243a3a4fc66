//! `ztunnel run`, in a visible order: runtimes, state, certificates, eBPF, endpoints, serve, drain.
//!
//! Connections are carried by the data plane's threads. Everything else (files, certificates, enrolment, admin)
//! runs on this one thread, so that no push of state and no scrape stands in a connection's way.

use std::{fs::File, future::pending, sync::Arc, time::Duration};

use anyhow::Context;
use control::{Certificates, NameSettings, Names, RevocationFiles, system_clock};
use model::Revoked;
use proxy::{Proxy, ProxySettings};
use redirect::{Captured, Redirection, Redirector};
use telemetry::{Ledgers, metrics as telemetry_metrics};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tunnel::{Deadlines, HandshakeObserver, Tunnel, TunnelSettings};

use crate::{
    admin::{self, Admin},
    certificates,
    config::{Config, SameNode},
    logging::Log,
    metrics,
    node::{Node, Parts},
    pods::PodSource,
    privileges,
    state::State,
    upkeep,
};

/// For everything but connections and tunnels: listeners, namespaces, files, endpoints, pipes.
const RESERVED_DESCRIPTORS: usize = 2048;
/// Of these, one in so many is a pipe's, of two descriptors each.
const PIPES_SHARE: usize = 8;
/// Pods of a node that descriptors are kept free for where they are answered by DNS: twice what a kubelet runs by default.
const DNS_PODS: usize = 256;
/// A million sockets is more memory than a node has for us.
const MAX_SOCKETS: usize = 1 << 20;
/// What an answer takes to be on its way.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How often, while draining, the open connections are counted.
const DRAIN_POLL: Duration = Duration::from_millis(50);

pub(crate) fn run(config: Config, log: &Log) -> anyhow::Result<()> {
    redirect::share_heaps(heaps(config.worker_threads));
    // Threads have it from the one that starts them.
    privileges::forbid_more();
    let data_plane = Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .thread_name("data-plane")
        .on_thread_start(privileges::keep_for_data_plane)
        .enable_all()
        .build()
        .context("starting the data plane's threads")?;
    let control =
        Builder::new_current_thread().enable_all().build().context("starting the control thread")?;
    control.block_on(serve(config, log, &data_plane))?;
    // Every connection has ended; what is left holds nothing that must be waited for.
    data_plane.shutdown_background();
    Ok(())
}

/// Two threads hardly ever wait for each other there; sixteen would.
fn heaps(workers: usize) -> i32 {
    i32::try_from(workers.div_ceil(4)).unwrap_or(1)
}

async fn serve(config: Config, log: &Log, data_plane: &Runtime) -> anyhow::Result<()> {
    redirect::forbid_core_dumps();
    let stopped = stop_signal()?;
    let exporter = telemetry_metrics::install().context("starting metrics")?;
    telemetry_metrics::build_info(env!("CARGO_PKG_VERSION"));
    metrics::describe();
    let snapshot = Arc::new(certificates::first_snapshot(&config));
    let state = Arc::new(State::start(&config, &snapshot).await?);
    let pods = PodSource::open(&config).await?;
    let authority = certificates::Source::start(&config).await?;
    let certificates = Arc::clone(authority.certificates());
    let revocation =
        RevocationFiles::start(&config.revocation_lists, authority.trusted(), system_clock()).await?;
    let ledgers = Arc::new(Ledgers::new(config.access_log.choice()));
    let tunnel = Tunnel::new(tunnel_settings(&config, &ledgers), Arc::clone(&certificates));
    heed(&revocation, &certificates, &tunnel);
    let dns = config.dns.enabled().then(|| dns::Settings { demand: state.demand(), ..dns_settings(&config) });
    let proxy_settings = ProxySettings { demand: state.demand(), ..proxy_settings(&config, dns.as_ref()) };
    let names = Arc::new(Names::open(&config.resolv_conf, NameSettings::default()));
    let proxy =
        Proxy::new(proxy_settings, Arc::clone(&snapshot), tunnel.clone(), Arc::clone(&ledgers), names);
    let redirector = Arc::new(start_redirection(&config, data_plane.handle())?);
    let beating = Arc::clone(&redirector);
    data_plane.spawn(async move { beating.keep_beating().await });
    let node = Node::new(Parts {
        redirector: Arc::clone(&redirector),
        proxy,
        ledgers: Arc::clone(&ledgers),
        certificates: Arc::clone(&certificates),
        snapshot: Arc::clone(&snapshot),
        dns: dns.map(|settings| dns::Server::new(settings, Arc::clone(&snapshot), Arc::clone(&ledgers))),
        data_plane: data_plane.handle().clone(),
        inspection_interval: config.inspection_interval.0,
        drain_deadline: config.drain_deadline.0,
        unplaced: pods.unplaced(),
    });
    let (ready, quit) = (CancellationToken::new(), CancellationToken::new());
    let desired = pods.pods();
    let admin = Arc::new(Admin {
        config: config.clone(),
        snapshot,
        ledgers: Arc::clone(&ledgers),
        certificates,
        authority,
        tunnel: tunnel.clone(),
        node: Arc::clone(&node),
        exporter,
        dropped: log.dropped.clone(),
        levels: log.levels.clone(),
        state: state.status(),
        pods: pods.status(),
        revocation,
        ready: ready.clone(),
        quit: quit.clone(),
    });
    admin::serve(&admin).await?;
    if stopped.run_until_cancelled(pods.first()).await.is_none() {
        tracing::info!("stopped before this node's pods were known");
        return Ok(());
    }
    let first = Arc::clone(&desired.borrow());
    state.keep(&first);
    tokio::spawn(Arc::clone(&state).follow(desired.clone()));
    // Whom a pod may talk to must be known before it is taken over.
    if stopped.run_until_cancelled(state.complete()).await.is_none() {
        tracing::info!("stopped before the mesh was known");
        return Ok(());
    }
    node.start(&first).await.context("attaching the node's programs")?;
    let pods = pods.follow(&node);
    tokio::spawn(Arc::clone(&node).run(desired));
    tokio::spawn(Arc::clone(&node).watch_over());
    tokio::spawn(Arc::clone(&node).outlive_successors());
    tokio::spawn(upkeep::keep_small(Arc::clone(&ledgers), state.status(), ready.clone()));
    let serving = async {
        pods.complete().await;
        ready.cancel();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), pods = node.status().len(), "ready");
        pending::<()>().await;
    };
    tokio::select! {
        () = stopped.cancelled() => {}
        // Whoever asked for it hears that it was understood.
        () = quit.cancelled() => sleep(LAST_WORDS).await,
        () = serving => {}
    }
    drain(&node, &tunnel, &ledgers, config.drain_deadline.0).await;
    Ok(())
}

/// Peers are asked to go elsewhere, but whoever still comes is served: a successor has taken the listeners, or
/// there is none. What is attached stays, and with it each pod's choice of what happens without a daemon.
async fn drain(node: &Node, tunnel: &Tunnel<Certificates>, ledgers: &Ledgers, within: Duration) {
    let open = ledgers.live().len();
    tracing::info!(open, deadline = ?within, "draining");
    node.begin_to_drain();
    let ended = async {
        while !ledgers.live().is_empty() {
            sleep(DRAIN_POLL).await;
        }
    };
    if timeout_at(Instant::now() + within, ended).await.is_err() {
        tracing::warn!(cut = ledgers.live().len(), "the drain deadline is over; connections are cut");
    }
    tunnel.drain();
    node.cut().await;
    tracing::info!("stopped");
}

/// The first SIGTERM or SIGINT drains; a second ends the process at once.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let stopped = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    let token = stopped.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if token.is_cancelled() {
                tracing::warn!("stopped at once by a second signal");
                std::process::exit(1);
            }
            token.cancel();
        }
    });
    Ok(stopped)
}

/// What is revoked counts from the first connection on.
fn heed(revocation: &RevocationFiles, certificates: &Arc<Certificates>, tunnel: &Tunnel<Certificates>) {
    let mut revoked = revocation.revoked();
    let (certificates, tunnel) = (Arc::clone(certificates), tunnel.clone());
    let apply = move |revoked: &Arc<Revoked>| {
        // Ours first: what is dialed anew must not stand on the old one.
        certificates.revoke(Arc::clone(revoked));
        tunnel.revoke(revoked);
    };
    apply(&revoked.borrow_and_update());
    tokio::spawn(async move {
        while revoked.changed().await.is_ok() {
            apply(&revoked.borrow_and_update());
        }
    });
}

fn start_redirection(config: &Config, data_plane: &Handle) -> anyhow::Result<Redirection> {
    let Some(cgroup_root) = config.cgroup_root.clone() else {
        return Ok(Redirection::Cni(Captured::new(data_plane.clone())));
    };
    let node = config.node_netns.display();
    File::open(&config.node_netns).with_context(|| {
        format!("nodeNetns: {node}; name a path that opens as the node's network namespace")
    })?;
    match &config.kubelet_cgroup {
        Some(path) => {
            tracing::info!(path = %path.display(), "connections from the kubelet's cgroup are probes");
        }
        None if config.pod_source.is_some() => tracing::warn!(
            "the kubelet's cgroup is not known, so probes of pods that take no plaintext are refused; set kubeletCgroup"
        ),
        None => {}
    }
    let settings = redirect::Settings {
        bpf_dir: config.bpf_dir.clone(),
        cgroup_root,
        node_netns: Some(config.node_netns.clone()),
        kubelet_cgroup: config.kubelet_cgroup.clone(),
        data_plane: data_plane.clone(),
    };
    let redirector = Redirector::start(settings)
        .context("loading the node's programs (`ztunnel check` says what the kernel lacks)")?;
    Ok(Redirection::Ebpf(Box::new(redirector)))
}

fn dns_settings(config: &Config) -> dns::Settings {
    let section = &config.dns;
    dns::Settings {
        cluster_domain: section.cluster_domain.clone(),
        queries_per_second: section.queries_per_second,
        forwards_per_pod: usize::from(section.forwards_per_pod.get()),
        forwards: usize::from(section.forwards.get()),
        connections_per_pod: usize::from(section.connections_per_pod.get()),
        connections: usize::from(section.connections.get()),
        ..dns::Settings::default()
    }
}

fn proxy_settings(config: &Config, dns: Option<&dns::Settings>) -> ProxySettings {
    let descriptors = redirect::raise_descriptor_limit();
    let reserved = RESERVED_DESCRIPTORS + dns.map_or(0, |dns| dns.descriptors(DNS_PODS));
    let sockets = (descriptors - reserved.min(descriptors / 4)).clamp(1, MAX_SOCKETS);
    let sockets = config.limits.sockets.map_or(sockets, |wanted| wanted.clamp(1, sockets));
    tracing::info!(descriptors, sockets, "sockets that connections may hold");
    ProxySettings {
        connect_deadline: config.connect_deadline.0,
        attempts: config.limits.endpoint_attempts,
        outliers: config.limits.set_aside.settings(),
        limits: config.limits.of_proxy(sockets),
        pipes: RESERVED_DESCRIPTORS.min(descriptors / 4) / PIPES_SHARE,
        direct: config.same_node == SameNode::Direct,
        ..ProxySettings::default()
    }
}

fn tunnel_settings(config: &Config, ledgers: &Arc<Ledgers>) -> TunnelSettings {
    let observing = Arc::clone(ledgers);
    let handshakes = HandshakeObserver::new(move |took| observing.timings().handshake_outbound.record(took));
    let deadlines = Deadlines {
        connect: config.connect_deadline.0,
        tls: config.handshake_deadline.0,
        preface: config.handshake_deadline.0,
        ..Deadlines::default()
    };
    config.limits.of_tunnels(TunnelSettings {
        deadlines,
        turns: config.worker_threads,
        handshakes,
        ..TunnelSettings::default()
    })
}
