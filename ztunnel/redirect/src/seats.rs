//! Which of the node's daemons live. Each has a seat while it runs: a directory on bpffs, named for its first program,
//! with a lock that the kernel opens when its process ends, however it ends. A link tells by its program whose it is, and
//! the seat whether that daemon is still there.
//!
//! ```text
//! <bpf dir>/daemons/<id of the daemon's first program>
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use crate::RedirectError;

pub(crate) struct Seats {
    directory: PathBuf,
    own: AtomicU32,
    /// Locked, until it is left.
    lock: Mutex<Option<File>>,
}

impl Seats {
    /// Takes the seat of the daemon whose first program is `own`. The kernel counts programs up, so daemons that come later
    /// have higher numbers.
    pub(crate) fn take(bpf_dir: &Path, own: u32) -> Result<Self, RedirectError> {
        let directory = bpf_dir.join("daemons");
        let lock = take(&directory, own).map_err(|source| RedirectError::Path {
            what: "taking a seat in",
            path: directory.clone(),
            source,
        })?;
        Ok(Self { directory, own: AtomicU32::new(own), lock: Mutex::new(Some(lock)) })
    }

    /// As if we had ended: whoever was here before us may have all back.
    pub(crate) fn leave(&self) {
        *self.lock.lock() = None;
    }

    /// Gives our seat another number, since our first program is another now.
    pub(crate) fn rename(&self, number: u32) -> Result<(), RedirectError> {
        let to = self.directory.join(number.to_string());
        fs::rename(self.directory.join(self.own().to_string()), &to)
            .map_err(|source| RedirectError::Path { what: "renaming our seat to", path: to, source })?;
        self.own.store(number, Relaxed);
        Ok(())
    }

    pub(crate) fn own(&self) -> u32 {
        self.own.load(Relaxed)
    }

    /// Whether the daemon of this number lives.
    pub(crate) fn is_held(&self, number: u32) -> bool {
        is_held(&self.directory.join(number.to_string()))
    }

    /// Whether a daemon that came after us lives.
    pub(crate) fn is_later_held(&self) -> bool {
        self.later().any(|number| self.is_held(number))
    }

    /// Whether a daemon that came after us has ended, and what it had taken has not been taken back since.
    pub(crate) fn is_later_empty(&self) -> bool {
        self.later().any(|number| !self.is_held(number))
    }

    /// Takes away the seats of daemons that have ended.
    pub(crate) fn clear(&self) {
        for number in self.all().filter(|&number| number != self.own() && !self.is_held(number)) {
            // Gone, or left to the next who clears.
            let _ = fs::remove_dir(self.directory.join(number.to_string()));
        }
    }

    fn later(&self) -> impl Iterator<Item = u32> {
        self.all().filter(|&number| number > self.own())
    }

    fn all(&self) -> impl Iterator<Item = u32> + use<> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }
}

/// Locked before it has its name: nobody ever sees it empty while we live.
fn take(directory: &Path, own: u32) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // One that a process of this number has left behind will do.
    let aside = directory.join(format!("taking-{}", process::id()));
    DirBuilder::new().recursive(true).mode(0o700).create(&aside)?;
    let lock = File::open(&aside)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    fs::rename(&aside, directory.join(own.to_string()))?;
    Ok(lock)
}

/// Those who only ask do not exclude one another. What cannot be asked counts as alive: nothing is taken from it.
fn is_held(seat: &Path) -> bool {
    match File::open(seat) {
        Ok(seat) => flock(&seat, FlockOperation::NonBlockingLockShared).is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("ztunnel-seats-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    /// If a daemon that ended counted as alive, the one before it would never serve again; the other way round, two would
    /// take the node from each other without end.
    #[test]
    fn a_seat_is_held_until_its_daemon_ends() {
        let directory = directory("held");
        let older = Seats::take(&directory, 7).unwrap();
        assert!(older.is_held(7) && !older.is_later_held() && !older.is_later_empty());
        let newer = Seats::take(&directory, 9).unwrap();
        assert!(older.is_held(9) && older.is_later_held() && !older.is_later_empty());
        assert!(newer.is_held(7) && !newer.is_later_held());
        drop(newer);
        assert!(!older.is_held(9) && !older.is_later_held() && older.is_later_empty());
        older.clear();
        assert!(older.is_held(7) && !older.is_later_empty());
        older.leave();
        assert!(!older.is_held(7));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn whoever_ends_before_us_is_nothing_to_us() {
        let directory = directory("before");
        let older = Seats::take(&directory, 7).unwrap();
        let newer = Seats::take(&directory, 9).unwrap();
        drop(older);
        assert!(!newer.is_later_empty() && !newer.is_held(7) && !newer.is_held(8));
        newer.clear();
        assert_eq!(newer.all().collect::<Vec<_>>(), [9]);
        newer.rename(12).unwrap();
        assert!(newer.is_held(12) && !newer.is_held(9) && !newer.is_later_held());
        fs::remove_dir_all(&directory).unwrap();
    }
}
