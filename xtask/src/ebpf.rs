//! Builds the kernel side with its own toolchain, and leaves the objects where the daemon's build takes them from.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{setup::EbpfTools, step, toolchain, workspace};

/// The objects that `ebpf/programs` yields.
const OBJECTS: [&str; 2] = ["node", "pod"];
const TARGET: &str = "bpfel-unknown-none";
/// Maps that belong to a socket need BTF, and BTF needs debug information.
const RUSTFLAGS: [&str; 2] = ["-Clink-arg=--btf", "-Cdebuginfo=2"];

pub(crate) fn build(tools: &EbpfTools) -> Result<()> {
    let directory = workspace::target().join("ebpf");
    let built = directory.join("build");
    let mut cargo = workspace::cargo();
    cargo
        .current_dir(workspace::root().join("ebpf/programs"))
        .args(["build", "--release", "--locked", "--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&built)
        .env("RUSTC", &tools.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", toolchain::path_with(&tools.linker))
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    let cure = format!("It was built with {} and {}.", tools.rustc.display(), tools.linker.display());
    step::run("building the eBPF objects", &mut cargo, &cure)?;
    for object in OBJECTS {
        copy_if_changed(
            &built.join(TARGET).join("release").join(object),
            &directory.join(format!("{object}.o")),
        )?;
    }
    Ok(())
}

/// An untouched object spares the daemon a rebuild.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}
