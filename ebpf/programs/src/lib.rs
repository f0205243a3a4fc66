//! What both objects are made of: their maps and the way they read socket contexts.
//!
//! Two objects are built from this crate. `node` is loaded once and decides at `connect()` and `setsockopt()`;
//! `pod` is loaded once per pod and decides at the SYN. They meet in the maps, which are pinned.
#![no_std]

pub mod context;
pub mod maps;

/// What a cgroup or lookup program answers: let it go on.
pub const PASS: i32 = 1;
/// A cgroup program: fail the system call. A lookup program: drop the SYN.
pub const REFUSE: i32 = 0;
