//! Network namespaces: opening one, doing something inside, and its cookie.
#![expect(unsafe_code, reason = "neither SO_NETNS_COOKIE nor the questions of nsfs have a safe wrapper")]

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        linux::fs::MetadataExt,
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process, ptr,
    sync::OnceLock,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use socket2::{Domain, Socket, Type};

use crate::{PodSpec, RedirectError};

/// `SO_NETNS_COOKIE`, since Linux 5.14; include/uapi/asm-generic/socket.h
const SO_NETNS_COOKIE: libc::c_int = 71;

/// `NS_GET_NSTYPE`, since Linux 4.11; include/uapi/linux/nsfs.h
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
/// `NS_GET_USERNS` and `NS_GET_PARENT`, since Linux 4.9; the same header.
const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_PARENT: libc::Ioctl = 0xb702;

/// Keeps the namespace alive while it is open.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    path: PathBuf,
    identity: (u64, u64),
}

impl NetworkNamespace {
    pub fn open(path: &Path) -> Result<Self, RedirectError> {
        let failed = |source| RedirectError::Namespace { path: path.to_owned(), source };
        // A FIFO would otherwise hold this thread until somebody writes to it.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let kind = fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
        let refused = |what| failed(io::Error::new(io::ErrorKind::InvalidInput, what));
        if kind != NSFS_MAGIC {
            return Err(refused("not a namespace"));
        }
        if namespace_type(&file) != CloneFlags::CLONE_NEWNET.bits() {
            return Err(refused("a namespace, but not a network namespace"));
        }
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self { identity: (metadata.st_dev(), metadata.st_ino()), file, path: path.to_owned() })
    }

    /// The pod's. Where its identity is known, the path is a descriptor's, which may be closed before we are done, and then
    /// used again.
    pub(crate) fn of(pod: &PodSpec) -> Result<Self, RedirectError> {
        let namespace = Self::open(&pod.netns)?;
        match pod.netns_identity {
            None => Ok(namespace),
            Some(expected) if expected == namespace.identity => Ok(namespace.held()),
            Some(_) => {
                let problem = "its network namespace has gone, and its descriptor names another pod's";
                Err(RedirectError::Pod { uid: pod.uid.to_string(), problem })
            }
        }
    }

    /// Its device and inode: no other namespace has them while this one is open.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Whether it is the daemon's own.
    pub(crate) fn is_home(&self) -> io::Result<bool> {
        let own = home()?.metadata()?;
        Ok((own.st_dev(), own.st_ino()) == self.identity)
    }

    /// Named from now on by our own descriptor.
    fn held(self) -> Self {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        Self { path, ..self }
    }

    /// Whether the path it was opened by still names it. A pod's namespace goes when the pod goes, but for the
    /// references we hold.
    pub fn is_named(&self) -> bool {
        self.is_at(&self.path)
    }

    /// Whether `path` is this namespace.
    pub fn is_at(&self, path: &Path) -> bool {
        let same = |metadata: std::fs::Metadata| (metadata.st_dev(), metadata.st_ino()) == self.identity;
        std::fs::metadata(path).is_ok_and(same)
    }

    /// The kernel's name for it, never used twice between boots.
    pub fn cookie(&self) -> io::Result<u64> {
        // Not bound: a pod that has taken all ports must not keep itself from being enrolled.
        self.enter(|| Socket::new(Domain::UNIX, Type::DGRAM, None).and_then(|socket| cookie_of(&socket)))?
    }

    /// Runs `inside` in the namespace, on this thread. It must not await: the thread belongs to everybody.
    pub fn enter<T>(&self, inside: impl FnOnce() -> T) -> io::Result<T> {
        let home = home()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        // Even if `inside` panics, no thread may stay in a pod's namespace.
        let _back = Back(home);
        Ok(inside())
    }

    /// Whether it belongs to this process's user namespace, or to one that is at most so many generations below.
    pub(crate) fn is_of_our_users(&self, generations: usize) -> io::Result<bool> {
        let ours = std::fs::metadata("/proc/self/ns/user")?;
        let mut owner = related(&self.file, NS_GET_USERNS)?;
        for generation in 0..=generations {
            let metadata = owner.metadata()?;
            if (metadata.st_dev(), metadata.st_ino()) == (ours.st_dev(), ours.st_ino()) {
                return Ok(true);
            }
            if generation < generations {
                owner = related(&owner, NS_GET_PARENT)?;
            }
        }
        Ok(false)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

struct Back(&'static File);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot leave a pod's network namespace; a thread astray would mix up pods");
            process::abort();
        }
    }
}

/// The daemon's own namespace, remembered at first use.
fn home() -> io::Result<&'static File> {
    static HOME: OnceLock<File> = OnceLock::new();
    match HOME.get() {
        Some(home) => Ok(home),
        None => {
            let home = File::open("/proc/self/ns/net")?;
            Ok(HOME.get_or_init(|| home))
        }
    }
}

fn namespace_type(namespace: &File) -> libc::c_int {
    // SAFETY: the descriptor is open, and the request takes no argument.
    unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) }
}

fn related(namespace: &File, relation: libc::Ioctl) -> io::Result<File> {
    // SAFETY: the descriptor is open, and the request takes no argument.
    let descriptor = unsafe { libc::ioctl(namespace.as_raw_fd(), relation) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn cookie_of(socket: &Socket) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the descriptor is open, and the option writes at most `length` bytes into `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// If a FIFO were opened as files are, one wrong line in the pods file would stop the daemon's control thread.
    #[test]
    fn what_is_no_namespace_is_refused_at_once() {
        let fifo = std::env::temp_dir().join(format!("ztunnel-namespace-test-{}", process::id()));
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let opened = NetworkNamespace::open(&fifo);
        std::fs::remove_file(&fifo).unwrap();
        assert!(matches!(opened, Err(RedirectError::Namespace { .. })), "{opened:?}");
        assert!(NetworkNamespace::open(Path::new("/etc/hostname")).is_err());
        assert!(NetworkNamespace::open(Path::new("/proc/self/ns/mnt")).is_err());
    }

    #[test]
    fn a_namespace_is_known_by_any_of_its_names() {
        let own = NetworkNamespace::open(Path::new("/proc/self/ns/net")).unwrap();
        assert!(own.is_named());
        assert!(own.is_at(Path::new("/proc/thread-self/ns/net")));
        assert!(!own.is_at(Path::new("/proc/self/ns/mnt")));
    }
}
