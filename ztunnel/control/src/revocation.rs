//! Certificate revocation lists from files: watched, checked, published all together.
//!
//! [`lists`] reads a file and trusts no list that a root of the mesh does not stand behind. A file that cannot be used
//! leaves its last good lists in force. A list past its time still revokes what it lists, and is told of until a newer
//! one comes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{Revoked, Trust, svid::TrustBundle};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    file::{FileError, FileStatus, Loaded, follow_at_most},
    instant::{Clock, rfc3339, rfc3339_option},
};

mod lists;
#[cfg(test)]
mod tests;

use lists::List;

/// How often lists are held against the clock.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How often a list past its time is told of.
const TELL_AGAIN: Duration = Duration::from_secs(3600);

/// Publishes what its files revoke for as long as it lives.
pub struct RevocationFiles {
    published: Arc<Published>,
    revoked: watch::Receiver<Arc<Revoked>>,
    files: Vec<watch::Receiver<FileStatus>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

struct Published {
    /// What each file holds, in the order of the settings.
    lists: Mutex<Vec<Vec<List>>>,
    sender: watch::Sender<Arc<Revoked>>,
    clock: Clock,
}

/// The account of one file, and of the lists that it put in force.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationStatus {
    #[serde(flatten)]
    pub file: FileStatus,
    pub lists: Vec<ListStatus>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListStatus {
    pub issuer: String,
    /// Whose certificates it may speak of.
    pub trust_domains: Vec<String>,
    pub revoked: usize,
    #[serde(serialize_with = "rfc3339")]
    pub this_update: SystemTime,
    /// When a newer list should be there.
    #[serde(serialize_with = "rfc3339_option")]
    pub next_update: Option<SystemTime>,
    /// It should have been replaced by now.
    pub expired: bool,
}

/// The bundles in force, whenever it is asked.
pub type Bundles = Arc<dyn Fn() -> Arc<Trust> + Send + Sync>;

/// What the text of a file of lists revokes, if one of `roots` stands behind all of it; errors name `path`.
pub fn read_revocation_lists(path: &Path, text: &str, roots: &TrustBundle) -> Result<Revoked, FileError> {
    let trust = Trust::alone(roots.clone());
    Ok(lists::read(path, text, &trust)?.into_iter().map(|list| list.list).collect())
}

impl RevocationFiles {
    /// Loads all files, which must be good, and follows their changes from then on. Lists count that are signed by a root
    /// of one of the `bundles`, or by an authority whose certificate stands in the same file and leads to one; and they
    /// count for certificates of that bundle's trust domain alone.
    pub async fn start(paths: &[PathBuf], bundles: Bundles, clock: Clock) -> Result<Self, FileError> {
        let (sender, revoked) = watch::channel(Arc::default());
        let lists = Mutex::new(vec![Vec::new(); paths.len()]);
        let published = Arc::new(Published { lists, sender, clock });
        let (mut files, mut tasks) = (Vec::new(), Vec::new());
        for (index, path) in paths.iter().enumerate() {
            let (published, trusted) = (Arc::clone(&published), Arc::clone(&bundles));
            let load = move |path: &Path, text: &str| {
                let lists = lists::read(path, text, &trusted())?;
                published.put(index, lists).map_err(|message| FileError::Invalid {
                    path: path.to_owned(),
                    line: 1,
                    column: 1,
                    message,
                })
            };
            let (status, watching) = follow_at_most(path, lists::MAX_BYTES, Arc::new(load)).await?;
            files.push(status);
            tasks.push(watching);
        }
        if !paths.is_empty() {
            let telling = tell_of_expired(Arc::clone(&published), paths.to_vec());
            tasks.push(AbortOnDropHandle::new(tokio::spawn(telling)));
        }
        Ok(Self { published, revoked, files, _tasks: tasks })
    }

    /// What all files together revoke now.
    pub fn revoked(&self) -> watch::Receiver<Arc<Revoked>> {
        self.revoked.clone()
    }

    pub fn statuses(&self) -> Vec<RevocationStatus> {
        let now = (self.published.clock)();
        let lists = self.published.lists.lock();
        let files = self.files.iter().zip(lists.iter());
        files
            .map(|(file, lists)| RevocationStatus {
                file: file.borrow().clone(),
                lists: lists.iter().map(|list| list.status(now)).collect(),
            })
            .collect()
    }
}

impl Published {
    /// Or which list is older than what is in force: it would give back what has been revoked since.
    fn put(&self, index: usize, lists: Vec<List>) -> Result<Loaded, String> {
        let now = (self.clock)();
        let revoked = lists.iter().map(|list| list.list.len()).sum();
        let objects = [("revocationLists", lists.len()), ("revokedCertificates", revoked)];
        let warnings = lists.iter().filter_map(|list| list.warning(now)).collect();
        let mut all = self.lists.lock();
        if let Some(older) = lists::older(&all[index], &lists) {
            return Err(older);
        }
        let changed = all[index] != lists;
        all[index] = lists;
        if changed {
            let revoked = all.iter().flatten().map(|list| Arc::clone(&list.list)).collect();
            self.sender.send_replace(Arc::new(revoked));
        }
        Ok(Loaded { objects: objects.into(), changed: usize::from(changed), warnings, ..Loaded::default() })
    }

    fn expired(&self, paths: &[PathBuf]) -> Vec<(PathBuf, String)> {
        let now = (self.clock)();
        let lists = self.lists.lock();
        let of_file = |(path, lists): (&PathBuf, &Vec<List>)| {
            let warnings =
                lists.iter().filter(|list| list.is_expired(now)).filter_map(|list| list.warning(now));
            warnings.map(|warning| (path.clone(), warning)).collect::<Vec<_>>()
        };
        paths.iter().zip(lists.iter()).flat_map(of_file).collect()
    }
}

/// Whoever revokes after a list's time revokes in vain.
async fn tell_of_expired(published: Arc<Published>, paths: Vec<PathBuf>) {
    let mut told: HashMap<(PathBuf, String), SystemTime> = HashMap::new();
    loop {
        let now = (published.clock)();
        let expired = published.expired(&paths);
        told.retain(|list, _| expired.contains(list));
        for list in expired {
            let is_due = |at: &SystemTime| now.duration_since(*at).map_or(true, |age| age >= TELL_AGAIN);
            if told.get(&list).is_none_or(is_due) {
                tracing::error!(path = %list.0.display(), "{}", list.1);
                told.insert(list, now);
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}
