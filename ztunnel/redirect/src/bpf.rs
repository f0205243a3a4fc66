//! The few bpf(2) calls that aya 0.14 does not offer for cgroup and namespace links: create, update, pin, open.
#![expect(unsafe_code, reason = "raw bpf(2)")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// `enum bpf_attach_type`, include/uapi/linux/bpf.h
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum AttachType {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    SetSockOpt = 22,
    SkLookup = 36,
}

// enum bpf_cmd
const MAP_UPDATE_ELEM: libc::c_long = 2;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

/// The members of `union bpf_attr` that the calls below use; the kernel takes a short attribute for one whose
/// rest is zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Inquiry {
    fd: u32,
    length: u32,
    answer: u64,
}

/// The beginning of `struct bpf_link_info`; the kernel gives as much as there is room for.
#[repr(C)]
#[derive(Default)]
pub(crate) struct LinkInfo {
    kind: u32,
    id: u32,
    pub(crate) program: u32,
    padding: u32,
    /// Of a link to a network namespace: its inode number, 0 once it has ended.
    pub(crate) namespace: u32,
}

const LINK_INFO_BYTES: u32 = 20;
const _: () = assert!(size_of::<LinkInfo>() == LINK_INFO_BYTES as usize);

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Attaches `program` to the cgroup or network namespace `target`. The link lives as long as its descriptor or pin.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    kind: AttachType,
) -> io::Result<OwnedFd> {
    let attributes =
        LinkCreate { program: raw(program), target: raw(target), attach_type: kind as u32, flags: 0 };
    let link = call(LINK_CREATE, &attributes)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Puts `program` in the place of the link's program, atomically. ENOLINK: the link's target is gone.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate { link: raw(link), new_program: raw(program), flags: 0, old_program: 0 };
    call(LINK_UPDATE, &attributes).map(drop)
}

pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let answer = (&raw mut info).expose_provenance() as u64;
    let mut inquiry = Inquiry { fd: raw(link), length: LINK_INFO_BYTES, answer };
    // SAFETY: as in `call`, but that the kernel writes: at most `length` bytes of `info`, and the length itself.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, &raw mut inquiry, size_of::<Inquiry>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    call(OBJ_PIN, &Object { path: path.as_ptr().addr() as u64, fd: raw(object), flags: 0 }).map(drop)
}

pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = call(OBJ_GET, &Object { path: path.as_ptr().addr() as u64, fd: 0, flags: 0 })?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One cell of a map whose key is `u32` and whose value is `u32`, as socket storage is seen from user space.
pub(crate) fn map_update(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<()> {
    let attributes = MapElement {
        map: raw(map),
        padding: 0,
        key: (&raw const key).addr() as u64,
        value: (&raw const value).addr() as u64,
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &attributes).map(drop)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attribute is `repr(C)` and laid out as the command's part of `union bpf_attr`; what it points to
    // outlives the call; the kernel only reads it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
