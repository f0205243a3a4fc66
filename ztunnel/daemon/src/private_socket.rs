//! A Unix socket that only the node's root reaches: the admin endpoint's for who may change something, and the CNI
//! plugin's.
//!
//! A newer daemon puts its own in the place of ours. When that one has ended, ours comes back.
//!
//! Its directory and the socket belong to us and are closed to others, and each peer's credentials are looked at besides:
//! root's or our own user's, nobody else's.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

/// After a failure of accept(2), such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often we look whether somebody answers at our path.
const LOOK: Duration = Duration::from_secs(1);

/// A listening socket at its place. Dropping it takes it away, unless a newer daemon's stands there by now.
pub(crate) struct PrivateSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    owner: u32,
}

impl PrivateSocket {
    /// Takes the place of a socket that is there already: an older daemon's, or one that nobody listens on any more.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        let directory = path.parent().context("expected an absolute path of a file")?;
        ensure!(path.is_absolute(), "expected an absolute path");
        let name = path.file_name().context("expected the path of a file")?.to_string_lossy();
        // Made aside and closed before it gets its name, so that it is never there half made.
        let aside = directory.join(format!(".{name}.{}", std::process::id()));
        prepare(directory)?;
        remove_if_there(&aside)?;
        let listener =
            UnixListener::bind(&aside).with_context(|| format!("listening on {}", aside.display()))?;
        let placed = place(&aside, path, directory);
        if placed.is_err() {
            // What we could not use must not be left behind; if that fails too, the first error tells more.
            let _ = fs::remove_file(&aside);
        }
        let (file, owner) = placed?;
        Ok(Self { listener, path: path.to_owned(), file, owner })
    }

    /// Whoever comes next and may come in.
    pub(crate) async fn accept(&mut self) -> UnixStream {
        loop {
            let Ok(accepted) = timeout(LOOK, self.listener.accept()).await else {
                self.come_back();
                continue;
            };
            match accepted {
                Ok((stream, _)) if self.admits(&stream) => return stream,
                Ok(_) => {
                    let path = self.path.display();
                    tracing::warn!(%path, "a socket of ours was connected to by somebody who is not root");
                }
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "a socket of ours cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes its place again if nobody is there.
    fn come_back(&mut self) {
        if self.is_in_place() || is_answered(&self.path) {
            return;
        }
        match Self::bind(&self.path) {
            Ok(again) => *self = again,
            Err(error) => {
                let (path, error) = (self.path.display(), format!("{error:#}"));
                tracing::warn!(%path, error, "nobody answers at a socket of ours, and it cannot be made anew");
            }
        }
    }

    fn is_in_place(&self) -> bool {
        let now = fs::symlink_metadata(&self.path).map(|now| (now.dev(), now.ino()));
        now.is_ok_and(|now| now == self.file)
    }

    fn admits(&self, peer: &UnixStream) -> bool {
        peer.peer_cred().is_ok_and(|peer| may_come_in(peer.uid(), self.owner))
    }
}

fn may_come_in(peer: u32, owner: u32) -> bool {
    peer == 0 || peer == owner
}

impl Drop for PrivateSocket {
    fn drop(&mut self) {
        if self.is_in_place() {
            // It refuses whoever connects from now on, whether its name goes or stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a socket at `path` has a process behind it, asked without connecting: a datagram socket is told that this one is
/// of another kind.
fn is_answered(path: &Path) -> bool {
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    !asked.is_err_and(|error| gone.contains(&error.kind()))
}

/// A directory that others can write to would let them put a socket of theirs in ours' place.
fn prepare(directory: &Path) -> anyhow::Result<()> {
    let shown = directory.display();
    match DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("making {shown}"));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(directory).with_context(|| format!("looking at {shown}"))?;
    ensure!(found.is_dir(), "{shown} is not a directory");
    ensure!(found.mode() & 0o022 == 0, "others may write to {shown}; close it: chmod 700 {shown}");
    Ok(())
}

fn place(aside: &Path, path: &Path, directory: &Path) -> anyhow::Result<((u64, u64), u32)> {
    fs::set_permissions(aside, Permissions::from_mode(0o600)).context("closing the socket to others")?;
    let own = fs::symlink_metadata(aside).context("looking at the socket")?;
    let above = fs::symlink_metadata(directory).context("looking at its directory")?;
    ensure!(
        above.uid() == own.uid() || above.uid() == 0,
        "{} belongs to user {}, who could put another socket in its place",
        directory.display(),
        above.uid()
    );
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            bail!("{} is there and is not a socket; move it away", path.display())
        }
        _ => {}
    }
    fs::rename(aside, path).with_context(|| format!("naming it {}", path.display()))?;
    Ok(((own.dev(), own.ino()), own.uid()))
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn it_is_closed_to_others_and_takes_the_place_of_an_older_one() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("run/admin.sock");
        let older = PrivateSocket::bind(&path).unwrap();
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        let newer = PrivateSocket::bind(&path).unwrap();
        drop(older);
        std::os::unix::net::UnixStream::connect(&path).expect("the older took the newer's away");
        drop(newer);
        assert!(!path.exists(), "it is left behind");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    /// If it did not come back, no pod of the mesh could start on a node whose newer daemon has died.
    #[tokio::test]
    async fn it_comes_back_when_a_newer_one_has_ended() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("cni.sock");
        let mut older = PrivateSocket::bind(&path).unwrap();
        let newer = PrivateSocket::bind(&path).unwrap();
        older.come_back();
        assert!(newer.is_in_place() && !older.is_in_place(), "the newer's was taken away");
        drop(newer);
        older.come_back();
        assert!(older.is_in_place(), "it ended well, and its name went");
        fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        older.come_back();
        assert!(older.is_in_place(), "it was killed, and its name stays");
        let accepted = tokio::spawn(async move { older.accept().await });
        UnixStream::connect(&path).await.unwrap();
        accepted.await.unwrap();
    }

    #[tokio::test]
    async fn places_where_others_could_interfere_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let refused =
            |path: &Path| format!("{:#}", PrivateSocket::bind(path).err().expect("it was accepted"));
        assert!(refused(&open.join("admin.sock")).contains("others may write"));
        let linked = base.path().join("linked");
        std::os::unix::fs::symlink(base.path(), &linked).unwrap();
        assert!(refused(&linked.join("admin.sock")).contains("not a directory"));
        let file = base.path().join("file");
        fs::write(&file, "precious").unwrap();
        fs::set_permissions(base.path(), Permissions::from_mode(0o700)).unwrap();
        assert!(refused(&file).contains("is not a socket"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(refused(Path::new("relative.sock")).contains("absolute"));
    }

    #[test]
    fn only_root_and_ourselves_come_in() {
        assert!(may_come_in(0, 1000) && may_come_in(1000, 1000) && may_come_in(0, 0));
        assert!(!may_come_in(1000, 0) && !may_come_in(1001, 1000));
    }
}
