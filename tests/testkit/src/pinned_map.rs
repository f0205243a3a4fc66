//! The keys of a pinned eBPF map: what the kernel side really knows, whatever the daemon says.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result};

// enum bpf_cmd, include/uapi/linux/bpf.h
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_GET: libc::c_long = 7;

#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct NextKey {
    map: u32,
    padding: u32,
    key: u64,
    next: u64,
}

/// All keys, each `key_bytes` long, of the map pinned at `path`.
pub fn keys(path: &Path, key_bytes: usize) -> Result<Vec<Vec<u8>>> {
    let map = open(path).with_context(|| format!("opening the map {}", path.display()))?;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while let Some(next) = next_key(&map, keys.last(), key_bytes).context("reading a map's keys")? {
        keys.push(next);
    }
    Ok(keys)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = ObjectGet { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    let fd = call(OBJ_GET, &mut get)?;
    #[expect(unsafe_code, reason = "a new descriptor comes as a number")]
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The key after this one, the first if there is none.
fn next_key(map: &OwnedFd, after: Option<&Vec<u8>>, key_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; key_bytes];
    let mut request = NextKey {
        map: map.as_raw_fd().unsigned_abs(),
        padding: 0,
        key: after.map_or(0, |key| key.as_ptr().expose_provenance() as u64),
        next: next.as_mut_ptr().expose_provenance() as u64,
    };
    match call(MAP_GET_NEXT_KEY, &mut request) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    #[expect(unsafe_code, reason = "raw bpf(2)")]
    // SAFETY: the attribute is `repr(C)` and laid out as the command's part of `union bpf_attr`; what it points to
    // outlives the call and has the sizes the map was made with.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
