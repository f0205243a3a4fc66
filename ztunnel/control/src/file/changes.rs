//! Says when a file may have changed.
//!
//! Not the file is watched but the directories on the way to it, through every symbolic link: editors rename a new
//! file into place, Kubernetes swaps the link `..data` of a ConfigMap, a file vanishes and comes back. What inotify
//! does not tell (a network file system, no watches left) a slow look at the file's metadata finds.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::AccessKind};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};

/// Writers are given this long to finish before the file is read.
const QUIET: Duration = Duration::from_millis(100);
/// But a directory in which something always happens must not put it off for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the metadata is looked at when nothing was told.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Symbolic links followed, as the kernel's own limit.
const MAX_LINKS: usize = 40;

pub(crate) struct Changes {
    path: PathBuf,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    told: Arc<Notify>,
    seen: Fingerprint,
}

/// What the file was when last looked at; `None` if it was not there.
type Fingerprint = Option<(u64, u64, u64, i64, i64, i64, i64)>;

impl Changes {
    pub(crate) fn of(path: &Path) -> Self {
        let told = Arc::new(Notify::new());
        let watcher = watcher(Arc::clone(&told))
            .inspect_err(|error| tracing::warn!(%error, "files are not watched, only looked at now and then"))
            .ok();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut changes = Self { seen: fingerprint(&path), path, watcher, watched: BTreeSet::new(), told };
        changes.watch_directories();
        changes
    }

    /// Returns when the file is not what it was at the last return. Cancel safe.
    pub(crate) async fn next(&mut self) {
        loop {
            // Whether told or not, look.
            if timeout(LOOK_AGAIN, self.told.notified()).await.is_ok() {
                self.settle().await;
            }
            self.watch_directories();
            let now = fingerprint(&self.path);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    async fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let quiet = async {
                tokio::select! {
                    () = sleep(QUIET) => true,
                    () = self.told.notified() => false,
                }
            };
            if timeout_at(deadline, quiet).await.unwrap_or(true) {
                return;
            }
        }
    }

    /// The way to the file may lead through other directories than before. A directory that was removed and made
    /// again has lost its watch without a word, so all are set anew; setting one twice is harmless.
    fn watch_directories(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = directories_to(&self.path);
        for gone in self.watched.difference(&wanted) {
            // A directory that no longer exists has taken its watch along.
            let _ = watcher.unwatch(gone);
        }
        self.watched = wanted
            .into_iter()
            .filter(|directory| watcher.watch(directory, RecursiveMode::NonRecursive).is_ok())
            .collect();
    }
}

fn watcher(told: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading shows as an access. An error may hide a change.
        let harmless = event.is_ok_and(
            |event| matches!(event.kind, EventKind::Access(kind) if !matches!(kind, AccessKind::Close(_))),
        );
        if !harmless {
            told.notify_one();
        }
    })
}

/// Identity, size and times: anything that differs when the content does.
fn fingerprint(path: &Path) -> Fingerprint {
    let m = path.metadata().ok()?;
    Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
}

/// The directory of `path` and of everything it links to. Of one that does not exist, the nearest that does.
fn directories_to(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let mut waiting = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = waiting.pop() {
        let Some(parent) = path.parent() else { continue };
        directories.extend(parent.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_owned));
        // A link may be any component of the way, such as `..data` in a ConfigMap.
        for component in path.ancestors() {
            let (Ok(target), Some(base)) = (component.read_link(), component.parent()) else { continue };
            links += 1;
            if links <= MAX_LINKS {
                let rest = path.strip_prefix(component).unwrap_or(Path::new(""));
                waiting.push(if rest.as_os_str().is_empty() {
                    base.join(target)
                } else {
                    base.join(target).join(rest)
                });
                directories.insert(base.to_owned());
            }
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn every_directory_through_which_the_way_leads_is_found() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("map/..v1")).unwrap();
        fs::create_dir(at("etc")).unwrap();
        fs::write(at("map/..v1/state.yaml"), "{}").unwrap();
        symlink("..v1", at("map/..data")).unwrap();
        symlink("..data/state.yaml", at("map/state.yaml")).unwrap();
        symlink(at("map/state.yaml"), at("etc/state.yaml")).unwrap();
        let found = directories_to(&at("etc/state.yaml"));
        for directory in ["etc", "map", "map/..v1"] {
            assert!(found.contains(&at(directory)), "{directory} is missing in {found:?}");
        }
    }

    #[test]
    fn of_what_is_not_there_the_nearest_is_found_and_a_loop_ends() {
        let root = tempfile::tempdir().unwrap();
        assert!(directories_to(&root.path().join("not/yet/state.yaml")).contains(root.path()));
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        symlink(&b, &a).unwrap();
        symlink(&a, &b).unwrap();
        assert!(directories_to(&a).contains(root.path()));
    }

    #[test]
    fn a_file_put_in_the_place_of_another_has_another_fingerprint() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        assert_eq!(fingerprint(&path), None);
        fs::write(&path, "a").unwrap();
        let before = fingerprint(&path);
        fs::rename(&path, root.path().join("old")).unwrap();
        fs::write(&path, "b").unwrap();
        assert_ne!(before, fingerprint(&path));
    }
}
