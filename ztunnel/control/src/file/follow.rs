//! Loads a file, and again whenever it changes, and keeps the account.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::{
    sync::watch,
    task::{JoinError, spawn_blocking},
};
use tokio_util::task::AbortOnDropHandle;

use super::{FileError, FileProblem, FileStatus, changes::Changes, text};

/// What a good load put in force.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) objects: BTreeMap<&'static str, usize>,
    /// Objects added, changed or removed.
    pub(crate) changed: usize,
    /// What is wrong and was taken for less than it says, with its place.
    pub(crate) mistakes: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Takes the text of a file and puts what it says in force, all of it or nothing.
pub(crate) type Load = dyn Fn(&Path, &str) -> Result<Loaded, FileError> + Send + Sync;

pub(crate) type Followed = (watch::Receiver<FileStatus>, AbortOnDropHandle<()>);

/// Loads `path` now, which must succeed, and from then on whenever it changes, until the handle is dropped.
pub(crate) async fn follow(path: &Path, load: Arc<Load>) -> Result<Followed, FileError> {
    follow_at_most(path, text::MAX_BYTES, load).await
}

/// The same, for files that are never larger than `limit` bytes: of a larger one no more is read.
pub(crate) async fn follow_at_most(path: &Path, limit: u64, load: Arc<Load>) -> Result<Followed, FileError> {
    // Watched before it is read: what changes meanwhile is not missed.
    let mut changes = Changes::of(path);
    let (status, receiver) = watch::channel(FileStatus::new(path));
    let path = path.to_owned();
    record(&status, Ok(attempt(&path, limit, &load).await?));
    let task = tokio::spawn(async move {
        loop {
            changes.next().await;
            record(&status, attempt(&path, limit, &load).await);
        }
    });
    Ok((receiver, AbortOnDropHandle::new(task)))
}

/// A large file takes a while to parse: not on a thread that serves others.
async fn attempt(path: &Path, limit: u64, load: &Arc<Load>) -> Result<(Loaded, String), FileError> {
    let (path, load) = (path.to_owned(), Arc::clone(load));
    let in_vain = |path: &Path, error: JoinError| FileError::unreadable(path, std::io::Error::other(error));
    let owned = path.clone();
    let loading = spawn_blocking(move || {
        let text = text::read_at_most(&owned, limit)?;
        load(&owned, &text).map(|loaded| (loaded, version(&text)))
    });
    loading.await.unwrap_or_else(|error| Err(in_vain(&path, error)))
}

/// 16 digits: what `sha256sum` begins with.
fn version(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn record(status: &watch::Sender<FileStatus>, result: Result<(Loaded, String), FileError>) {
    status.send_modify(|status| match result {
        Ok((loaded, version)) => {
            status.loads += 1;
            status.version = Some(version);
            status.loaded_at = Some(SystemTime::now());
            status.problem = None;
            status.objects = loaded.objects;
            status.mistakes = loaded.mistakes;
            status.warnings = loaded.warnings;
            let (path, objects) = (status.path.display(), &status.objects);
            tracing::info!(%path, ?objects, changed = loaded.changed, "loaded");
            status.mistakes.iter().for_each(|mistake| tracing::error!("{mistake}"));
            status.warnings.iter().for_each(|warning| tracing::warn!(%path, "{warning}"));
        }
        Err(error) => {
            status.failures += 1;
            let (reason, error) = (error.reason(), error.to_string());
            tracing::error!(path = %status.path.display(), reason, error, "refused; the last good load stays in force");
            status.problem = Some(FileProblem { since: SystemTime::now(), reason, error });
        }
    });
}
