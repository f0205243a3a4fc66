//! The pod namespace's own sysctls that steering relies on.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    sync::OnceLock,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use crate::{NetworkNamespace, RedirectError};

/// With these, packets that answer a marked packet are marked, and so find their way back over lo.
const NEEDED: [&str; 3] = [
    // The SYN-ACK of the application inherits the mark of the proxy's SYN.
    "net/ipv4/tcp_fwmark_accept",
    // A closed port's RST too: without it a refused connection hangs.
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
];

/// Sets what is not set; answers with the names it changed.
pub(crate) fn ensure(namespace: &NetworkNamespace) -> Result<Vec<&'static str>, RedirectError> {
    let inside = || NEEDED.into_iter().filter_map(|name| set(name).transpose()).collect();
    namespace.enter(inside).map_err(|source| RedirectError::InNamespace { what: "entering", source })?
}

/// /proc/sys/net is that of the calling thread's namespace.
fn set(name: &'static str) -> Result<Option<&'static str>, RedirectError> {
    let path = format!("/proc/sys/{name}");
    let failed = |source| RedirectError::Sysctl { name, source };
    match fs::read_to_string(&path) {
        Ok(value) if value.trim() == "1" => return Ok(None),
        // A kernel without IPv6 has nothing to reflect there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && name.contains("ipv6") => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(failed(error)),
    }
    match fs::write(&path, "1") {
        // As container runtimes have it for who is not privileged altogether.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            set_by_own_proc(name).map_err(failed)?;
        }
        written => written.map_err(failed)?,
    }
    Ok(Some(name))
}

/// By a /proc of our own that is mounted nowhere: what may be written there is up to capabilities alone.
fn set_by_own_proc(name: &str) -> io::Result<()> {
    let file = openat(own_proc()?, format!("sys/{name}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).write_all(b"1")
}

fn own_proc() -> io::Result<&'static OwnedFd> {
    static PROC: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(proc) = PROC.get() {
        return Ok(proc);
    }
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(PROC.get_or_init(|| proc))
}
