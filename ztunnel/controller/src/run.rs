//! Starts in this order: bind, connect to the API server, watch, serve; and ends the other way round.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use futures::{Stream, StreamExt};
use parking_lot::RwLock;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

use crate::{
    ads::Discovery,
    authentication::Authenticator,
    book::{Book, Later},
    ca::{self, CertificateService},
    convert::Cluster,
    inventory::{Inventory, Told},
    lease::Election,
    probes::{self, Counters, Probes},
    server::{self, Services},
    settings::Settings,
    status::Verdicts,
    watches::watch_all,
};

/// Changes that are taken at once before daemons are told, so that a storm of them costs one response.
const BATCH: usize = 1_000;
const RELEASE: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let listener = server::bind(settings.address).await?;
    let probing = server::bind(settings.probes).await?;
    let client = kubernetes::connect(settings.kubeconfig.as_deref()).await?;
    let (addresses, namespace) = (&settings.address, &settings.namespace);
    tracing::info!(%addresses, namespace, trust_domain = %settings.trust_domain, "the controller starts");

    let counters = Arc::new(Counters::default());
    let (book, verdicts) = (Arc::new(Book::default()), Arc::new(Verdicts::default()));
    let inventory = Arc::new(RwLock::new(Inventory::new(cluster(&settings), settings.own())));
    let (changed, changes) = watch::channel(0);
    let (leading, leads) = watch::channel(false);
    let (holding, ca) = watch::channel(None);
    let (configuring, tls) = watch::channel(None);
    let (stop, stopping) = watch::channel(false);

    let told = watch_all(&client, settings.own(), &counters);
    let following = follow(told, Arc::clone(&inventory), Arc::clone(&book), Arc::clone(&verdicts), changed);
    let electing = tokio::spawn(Election::new(client.clone(), &settings).run(leading.clone()));
    tokio::spawn(ca::keep(client.clone(), Arc::clone(&settings), leads.clone(), holding));
    tokio::spawn(server::keep_certificate(Arc::clone(&settings), ca.clone(), configuring));
    let (writing, writer) = (Arc::clone(&verdicts), client.clone());
    let may_write = leads.clone();
    tokio::spawn(async move { writing.write(writer, may_write).await });
    let pages = Probes {
        counters: Arc::clone(&counters),
        book: Arc::clone(&book),
        inventory: Arc::clone(&inventory),
        ca: ca.clone(),
        leads,
        stopping: stopping.clone(),
    };
    tokio::spawn(probes::serve(probing, pages));

    let authenticator = Arc::new(Authenticator::new(client.clone(), &settings));
    let known = Arc::clone(&inventory);
    let certificates = CertificateService {
        ca,
        inventory,
        changed: changes,
        authenticator: Arc::clone(&authenticator),
        counters: Arc::clone(&counters),
        longest: settings.certificate_lifetime,
        places: CertificateService::places(),
    };
    let services = Services { discovery: Discovery::new(book, authenticator, counters, known), certificates };
    let serving = tokio::spawn(server::serve(listener, services, tls, stopping));
    tokio::select! {
        () = following => {}
        result = signalled() => result?,
    }
    tracing::info!("stopping: daemons go on with what they have, and come back to another replica");
    stop.send_replace(true);
    // Else it would take again what it lets go of.
    electing.abort();
    let _ = electing.await;
    leading.send_replace(false);
    let _ = timeout(RELEASE, Election::release(client, &settings)).await;
    serving.await.context("serving")
}

/// What the watches tell goes into the inventory, and what comes of it to the daemons.
async fn follow(
    told: impl Stream<Item = Told>,
    inventory: Arc<RwLock<Inventory>>,
    book: Arc<Book>,
    verdicts: Arc<Verdicts>,
    changed: watch::Sender<u64>,
) {
    let mut batches = std::pin::pin!(told.ready_chunks(BATCH));
    let mut later = Later::default();
    loop {
        let batch = tokio::select! {
            batch = batches.next() => batch,
            () = later.is_due() => {
                book.publish(later.take());
                continue;
            }
        };
        let Some(batch) = batch else { return };
        let settled = {
            let mut inventory = inventory.write();
            batch.into_iter().for_each(|told| inventory.take(told));
            inventory.settle()
        };
        changed.send_modify(|number| *number += 1);
        if let Some(settled) = settled {
            book.publish(later.sift(settled.update, &book));
            verdicts.put(settled.verdicts, settled.gone);
        }
    }
}

fn cluster(settings: &Settings) -> Cluster {
    // As istiod: everybody assumes this one.
    let named = settings.trust_domain.as_str();
    Cluster {
        id: settings.cluster_id.clone(),
        network: settings.network.clone(),
        trust_domain: if named == "cluster.local" { String::new() } else { named.to_owned() },
        domain: settings.cluster_domain.clone(),
        root_namespace: settings.root_namespace().to_owned(),
    }
}

async fn signalled() -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
