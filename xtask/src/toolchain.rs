//! What builds for the kernel: a rustc that has the source of `core` (there is no built one for BPF) and
//! bpf-linker. People have them from rustup and cargo, or from Debian's packages; either will do.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use crate::workspace;

pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";
/// bpf-linker reads the bitcode of this LLVM and of older ones.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// What aya's kernel side asks for: Rust 1.87.
pub(crate) const OLDEST_RUSTC: (u32, u32) = (1, 87);

/// A rustc that can build `core` from source, and is new enough.
pub(crate) fn rustc_with_source() -> Option<PathBuf> {
    candidates().into_iter().find(|rustc| {
        has_core_source(rustc)
            && release(rustc) >= Some(OLDEST_RUSTC)
            && llvm_major(rustc) <= Some(LLVM_MAJOR)
    })
}

/// bpf-linker of our version: the one we built, or one on the path.
pub(crate) fn bpf_linker() -> Option<PathBuf> {
    let built = workspace::target().join("tools").join("bin/bpf-linker");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).map(|directory| directory.join("bpf-linker"));
    std::iter::once(built).chain(others).find(|linker| is_right_linker(linker))
}

fn candidates() -> Vec<PathBuf> {
    let chosen = std::env::var_os("EBPF_RUSTC").map(PathBuf::from);
    let nightly = rustup_which(&["--toolchain", "nightly"]);
    let current = rustup_which(&[]);
    [chosen, nightly, current, Some("/usr/bin/rustc".into())].into_iter().flatten().collect()
}

fn rustup_which(toolchain: &[&str]) -> Option<PathBuf> {
    let answer = output(Command::new("rustup").arg("which").args(toolchain).arg("rustc"))?;
    Some(PathBuf::from(answer.trim()))
}

fn has_core_source(rustc: &Path) -> bool {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]));
    sysroot.is_some_and(|sysroot| {
        Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    })
}

/// Major and minor version.
fn release(rustc: &Path) -> Option<(u32, u32)> {
    let release = verbose_version(rustc, "release: ")?;
    let mut numbers = release.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn llvm_major(rustc: &Path) -> Option<u32> {
    verbose_version(rustc, "LLVM version: ")?.split('.').next()?.parse().ok()
}

/// A line of `rustc -vV`.
fn verbose_version(rustc: &Path, name: &str) -> Option<String> {
    let version = output(Command::new(rustc).arg("-vV"))?;
    version.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

fn is_right_linker(linker: &Path) -> bool {
    let version = output(Command::new(linker).arg("--version"));
    version.is_some_and(|text| text.split_whitespace().last() == Some(BPF_LINKER_VERSION))
}

/// Standard output of a command that succeeds. Whoever calls cargo sets these variables for its own rustc, not for
/// those that we ask.
fn output(command: &mut Command) -> Option<String> {
    for variable in ["RUSTUP_TOOLCHAIN", "RUSTC"] {
        command.env_remove(variable);
    }
    let answer = command.output().ok().filter(|answer| answer.status.success())?;
    String::from_utf8(answer.stdout).ok()
}

/// `PATH` with the directory of `program` first.
pub(crate) fn path_with(program: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = program.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(directories).unwrap_or(path.clone())
}
