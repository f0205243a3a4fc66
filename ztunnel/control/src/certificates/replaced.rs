//! The embedded CA's files are replaced while it signs: a new intermediate from the PKI, a new root.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Certificates, EmbeddedCa,
    audit::{self, Change},
    ca_files::{CaFiles, RootError},
    signer::Signer,
};
use crate::file::{Changes, FileError, FileStatus, Loaded, record};

/// Agents write key and certificate one after the other.
const SETTLING: Duration = Duration::from_millis(200);

/// For as long as it lives, the CA signs with what its files hold.
pub struct CaWatch {
    status: watch::Receiver<FileStatus>,
    _following: AbortOnDropHandle<()>,
}

impl EmbeddedCa {
    /// Must be called within a tokio runtime. New roots are believed at once, the old ones as long as certificates live that
    /// came with them.
    pub fn follow(&self, certificates: Arc<Certificates>) -> CaWatch {
        let (inner, signer) = (self.inner(), self.inner().signer());
        let now = inner.now();
        certificates.shared.trust.learn(&signer.roots, now + inner.lifetime, now);
        let status = watch::Sender::new(FileStatus::new(first(&self.inner().files)));
        record(&status, Ok((loaded(&signer, 0), version(&signer))));
        let receiver = status.subscribe();
        let following = follow(self.clone(), certificates, status);
        CaWatch { status: receiver, _following: AbortOnDropHandle::new(tokio::spawn(following)) }
    }
}

impl CaWatch {
    pub fn status(&self) -> watch::Receiver<FileStatus> {
        self.status.clone()
    }
}

async fn follow(ca: EmbeddedCa, certificates: Arc<Certificates>, status: watch::Sender<FileStatus>) {
    let told = Arc::new(Notify::new());
    let mut watching = JoinSet::new();
    for path in ca.inner().files.all() {
        let (mut changes, told) = (Changes::of(path), Arc::clone(&told));
        watching.spawn(async move {
            loop {
                changes.next().await;
                told.notify_one();
            }
        });
    }
    loop {
        told.notified().await;
        sleep(SETTLING).await;
        let reloading = ca.clone();
        // Reads files and tries the key out: not on a thread that serves others.
        let Ok(result) = spawn_blocking(move || reloading.inner().reload()).await else { continue };
        let result = result.map(|before| changed(&ca, &before, &certificates));
        let version = version(&ca.inner().signer());
        if let Err(error @ RootError::OtherTrustDomain { .. }) = &result {
            audit::refused(Change::TrustDomain, error, &certificates.shared.settings.events);
        }
        let path = first(&ca.inner().files);
        let loaded = result.map(|loaded| (loaded, version));
        record(&status, loaded.map_err(|error| FileError::unfit(path, &error)));
    }
}

fn changed(ca: &EmbeddedCa, before: &Signer, certificates: &Certificates) -> Loaded {
    let (inner, after) = (ca.inner(), ca.inner().signer());
    let now = inner.now();
    certificates.shared.trust.learn(&after.roots, now + inner.lifetime, now);
    let is_new = before.certificate != after.certificate;
    if is_new {
        let change = if after.chain.is_empty() { Change::Root } else { Change::Intermediate };
        let events = &certificates.shared.settings.events;
        audit::signer_changed(change, &before.certificate, &after.certificate, events);
    }
    loaded(&after, usize::from(is_new))
}

fn loaded(signer: &Signer, changed: usize) -> Loaded {
    let objects = [("intermediates", signer.chain.len()), ("roots", signer.roots.len())].into();
    Loaded { objects, changed, ..Loaded::default() }
}

/// What the fingerprint of the certificate that signs begins with.
fn version(signer: &Signer) -> String {
    audit::fingerprint(&signer.certificate).chars().take(16).collect()
}

/// By which the set is named.
fn first(files: &CaFiles) -> &Path {
    match files {
        CaFiles::Root { certificate, .. } | CaFiles::Intermediate { certificate, .. } => certificate,
    }
}
