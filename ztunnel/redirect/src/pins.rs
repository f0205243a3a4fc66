//! Where maps and links are pinned, so that they outlive the daemon.
//!
//! ```text
//! <bpf dir>/v<ABI version>/<MAP>    maps; another version's are never touched
//! <bpf dir>/links/<hook>-<id>       one per cgroup hook and cgroup, one per pod and namespace cookie
//! ```

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::{
    RedirectError,
    bpf::{self, AttachType},
};

pub(crate) struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Makes the directories, readable by nobody but root.
    pub(crate) fn prepare(directory: &Path) -> Result<Self, RedirectError> {
        let pins = Self { directory: directory.to_owned() };
        if !is_on_bpffs(directory) {
            return Err(RedirectError::NotBpffs { path: directory.to_owned() });
        }
        for path in [pins.maps(), pins.links()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| RedirectError::Path { what: "creating", path, source })?;
        }
        Ok(pins)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.directory.join(format!("v{}", abi::VERSION))
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    pub(crate) fn link(&self, hook: &str, id: u64) -> PathBuf {
        self.links().join(format!("{hook}-{id}"))
    }

    /// The ids for which `hook` has a pinned link.
    pub(crate) fn linked(&self, hook: &str) -> Vec<u64> {
        let entries = fs::read_dir(self.links()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let (of, id) = name.to_str()?.rsplit_once('-')?;
                if of == hook { id.parse().ok() } else { None }
            })
            .collect()
    }

    /// What other ABI versions pinned goes, once this version serves all the pods.
    pub(crate) fn remove_other_versions(&self) {
        let ours = self.maps();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_version = entry.file_name().to_str().is_some_and(|name| name.starts_with('v'));
            if is_version && path != ours {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// Attaches `program` at `target` and pins the link, or puts it in the place of the pinned link's program: the hook
/// is never without a program.
pub(crate) fn attach(
    pin: &Path,
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    kind: AttachType,
) -> Result<(), RedirectError> {
    let failed = |what, source: io::Error| RedirectError::Path { what, path: pin.to_owned(), source };
    if let Some(link) = open(pin).map_err(|error| failed("opening the pinned link", error))? {
        match bpf::link_update(link.as_fd(), program) {
            Ok(()) => return Ok(()),
            // Its cgroup or namespace is gone, though the name came back.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => detach(pin)?,
            Err(error) => return Err(failed("updating the link", error)),
        }
    }
    let link = bpf::link_create(program, target, kind).map_err(|error| failed("attaching", error))?;
    match bpf::pin(link.as_fd(), pin) {
        // A daemon beside us was quicker. Two links at one hook run both programs, which agree; ours goes with its
        // descriptor, and the other's runs our program from here on.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let theirs = bpf::open_pinned(pin).map_err(|error| failed("opening the pinned link", error))?;
            bpf::link_update(theirs.as_fd(), program).map_err(|error| failed("updating the link", error))
        }
        pinned => pinned.map_err(|error| failed("pinning the link", error)),
    }
}

/// The id of the program that the pinned link runs.
pub(crate) fn program_of(pin: &Path) -> io::Result<u32> {
    Ok(bpf::link_info(bpf::open_pinned(pin)?.as_fd())?.program)
}

/// Whether the network namespace that the pinned link was attached to is no more.
pub(crate) fn target_has_ended(pin: &Path) -> io::Result<bool> {
    Ok(bpf::link_info(bpf::open_pinned(pin)?.as_fd())?.namespace == 0)
}

/// The link goes with its pin.
pub(crate) fn detach(pin: &Path) -> Result<(), RedirectError> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RedirectError::Path { what: "removing the pin", path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Judged by the nearest directory that exists.
fn is_on_bpffs(directory: &Path) -> bool {
    let existing = directory.ancestors().find_map(|path| statfs(path).ok());
    existing.is_some_and(|file_system| file_system.filesystem_type() == BPF_FS_MAGIC)
}

fn open(pin: &Path) -> io::Result<Option<OwnedFd>> {
    match bpf::open_pinned(pin) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
