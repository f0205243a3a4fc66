//! The mesh from a file in the form of Istio's local configuration.
//!
//! [`format`] is the file's form, [`lenient`] reads it and makes the best of policies with mistakes, [`build`] makes the model's objects of it and refuses what contradicts itself,
//! [`apply`] changes the snapshot by what differs.

use std::{path::Path, sync::Arc};

use model::{SharedSnapshot, TrustDomain};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::file::{FileError, FileStatus, Loaded, follow};

mod apply;
mod build;
mod format;
mod lenient;
#[cfg(test)]
mod tests;

/// Publishes what its file says for as long as it lives. It must be the only one that publishes there.
pub struct StateFile {
    status: watch::Receiver<FileStatus>,
    _watching: AbortOnDropHandle<()>,
}

impl StateFile {
    /// Loads `path`, which must be good, and follows its changes from then on. Workloads that name no trust domain
    /// are of `trust_domain`.
    pub async fn start(
        path: &Path,
        trust_domain: TrustDomain,
        snapshot: Arc<SharedSnapshot>,
    ) -> Result<Self, FileError> {
        let load = move |path: &Path, text: &str| load(path, text, &trust_domain, &snapshot);
        let (status, watching) = follow(path, Arc::new(load)).await?;
        Ok(Self { status, _watching: watching })
    }

    pub fn status(&self) -> watch::Receiver<FileStatus> {
        self.status.clone()
    }
}

pub(crate) fn load(
    path: &Path,
    text: &str,
    trust_domain: &TrustDomain,
    shared: &SharedSnapshot,
) -> Result<Loaded, FileError> {
    let (text, mistakes) = lenient::parse(path, text)?;
    let mesh = build::build(path, text, trust_domain)?;
    let objects = [
        ("workloads", mesh.workloads.len()),
        ("services", mesh.services.len()),
        ("policies", mesh.policies.len()),
        ("policiesNotFullyEnforced", mesh.unenforced),
    ];
    let warnings = mesh.warnings.clone();
    let mut snapshot = (*shared.load()).clone();
    let changed = apply::apply(&mut snapshot, mesh);
    if changed > 0 {
        shared.publish(snapshot);
    }
    Ok(Loaded { objects: objects.into(), changed, mistakes, warnings })
}
